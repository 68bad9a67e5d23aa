"""Made-up prompts with answers, for tests of what a reader sees."""

from paper.blocks import Answers, Said, Told


def said(who: str, right: bool, *, others: int = 0) -> Said:
    """Three seeds, of which some answer otherwise than most do."""
    told = [Told(text="Six." if right else "Two.", seeds=(1, 2, 3)[others:], is_right=right)]
    if others:
        told.append(
            Told(text="Two." if right else "Six.", seeds=(1, 2, 3)[:others], is_right=not right)
        )
    return Said(who=who, told=tuple(told))


def asked(number: int, *, sft: bool, orpo: bool, recipe: str = "tiny") -> Answers:
    return Answers(
        recipe=recipe,
        example=str(number),
        source="toy/even" if number % 2 == 0 else "toy/odd",
        prompt=f"user: question {number}",
        answers=(
            Said(who="Chosen answer", told=(Told(text="Six."),)),
            Said(who="Base", told=(Told(text=".", seeds=(0,)),)),
            said("SFT", sft, others=1),
            said("ORPO", orpo),
        ),
    )


PROMPTS = (
    *(asked(number, sft=True, orpo=True) for number in range(5)),
    *(asked(number, sft=True, orpo=False) for number in range(5, 7)),
    asked(7, sft=False, orpo=True),
    *(asked(number, sft=False, orpo=False) for number in range(8, 12)),
)
