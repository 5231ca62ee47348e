"""What a distillation experiment trains and evaluates on."""
