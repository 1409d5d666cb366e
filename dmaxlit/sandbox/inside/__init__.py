"""What runs inside the sandbox, with the standard library alone; dmaxlit starts it in another process."""
