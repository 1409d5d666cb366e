"""What runs inside the sandbox, with the standard library alone; dmaxlit starts it and does not import it."""
