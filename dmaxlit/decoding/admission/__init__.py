"""Admission policies: when a window of blocks takes in the next one."""

from dmaxlit.decoding.admission.base import ADMISSIONS, AdmissionPolicy, make_admission
from dmaxlit.decoding.admission.converging import ConvergingAdmission
from dmaxlit.decoding.admission.multi_bd import MultiBDAdmission
from dmaxlit.decoding.admission.progress import ProgressAdmission
from dmaxlit.decoding.admission.restarting import RestartingAdmission

__all__ = [
    "ADMISSIONS",
    "AdmissionPolicy",
    "ConvergingAdmission",
    "MultiBDAdmission",
    "ProgressAdmission",
    "RestartingAdmission",
    "make_admission",
]
