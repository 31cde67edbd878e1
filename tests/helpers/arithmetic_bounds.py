"""Options of the generators of arithmetic problems, as the tasks gsm8k and countdown take them."""


def bounds_of(low: int = 1, high: int = 1, max_number: int = 20, seed: int = 0) -> dict[str, int]:
    return {"seed": seed, "min_operations": low, "max_operations": high, "max_number": max_number}
