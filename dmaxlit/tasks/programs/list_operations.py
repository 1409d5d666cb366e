"""What can be done with a list, whatever its items are: request, code and meaning of each."""

from dmaxlit.tasks.programs.operation import Operation

__all__ = ["LIST_OPERATIONS"]

LIST_OPERATIONS = (
    Operation(
        "sorted",
        "whole",
        ("sort the list", "put the list in ascending order", "arrange the list from smallest to largest"),
        ("sorted(xs)",),
        lambda xs, k: sorted(xs),
    ),
    Operation(
        "sorted down",
        "whole",
        ("sort the list in descending order", "arrange the list from largest to smallest"),
        ("sorted(xs, reverse=True)", "sorted(xs)[::-1]"),
        lambda xs, k: sorted(xs, reverse=True),
    ),
    Operation(
        "reversed",
        "whole",
        ("reverse the list", "turn the order of the list around", "put the list in reverse order"),
        ("xs[::-1]", "list(reversed(xs))"),
        lambda xs, k: xs[::-1],
    ),
    Operation(
        "distinct",
        "whole",
        ("drop repeated values", "keep only the first of equal values", "remove duplicates but keep the order"),
        ("list(dict.fromkeys(xs))",),
        lambda xs, k: list(dict.fromkeys(xs)),
    ),
    Operation(
        "first",
        "whole",
        ("take the first {k} of the list", "keep at most {k} from the start of the list"),
        ("xs[:{k}]", "xs[0:{k}]"),
        lambda xs, k: xs[:k],
        range(2, 6),
    ),
    Operation(
        "without first",
        "whole",
        ("skip the first {k} of the list", "drop {k} from the start of the list"),
        ("xs[{k}:]",),
        lambda xs, k: xs[k:],
        range(1, 5),
    ),
    Operation(
        "last",
        "whole",
        ("take the last {k} of the list", "keep at most {k} from the end of the list"),
        ("xs[-{k}:]",),
        lambda xs, k: xs[-k:],
        range(2, 6),
    ),
    Operation(
        "every second",
        "whole",
        ("take every second one, starting with the first", "skip every other one, but keep the first"),
        ("xs[::2]",),
        lambda xs, k: xs[::2],
    ),
    Operation(
        "list",
        "end",
        ("the list", "the resulting list", "the new list"),
        ("xs",),
        lambda xs, k: xs,
    ),
    Operation(
        "count",
        "end",
        ("how many there are", "the length of the list", "the number of values left"),
        ("len(xs)",),
        lambda xs, k: len(xs),
    ),
    Operation(
        "more than",
        "end",
        ("whether there are more than {k} of them", "True if more than {k} are left, else False"),
        ("len(xs) > {k}", "{k} < len(xs)"),
        lambda xs, k: len(xs) > k,
        range(1, 5),
    ),
)
