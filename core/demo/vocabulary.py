"""The sentences of demo data: templates filled from a small vocabulary. All are invented; none is medical advice."""

import json
from dataclasses import dataclass
from random import Random
from typing import Any

GIVEN_NAMES = (
    "Ada", "Ben", "Cleo", "Dan", "Eva", "Finn", "Gus", "Hana", "Ivo", "June", "Kit", "Lena", "Max", "Nora", "Otis",
)  # fmt: skip
INITIALS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
FAMILY_NAMES = (
    "Alder", "Birch", "Cedar", "Dunnock", "Elm", "Fir", "Grebe", "Hazel", "Ibis", "Jay", "Kestrel", "Larch", "Merlin",
    "Nuthatch", "Oriole", "Pine", "Plover", "Quail", "Rowan", "Siskin", "Snipe", "Teal", "Veery", "Willow", "Wren",
    "Yew",
)  # fmt: skip
MODEL = "demo-model-1"
_TURNS_PER_SPECIALTY = 500


@dataclass(frozen=True)
class Specialty:
    topics: tuple[str, ...]
    findings: tuple[str, ...]
    drugs: tuple[str, ...]


SPECIALTIES = {
    "cardiology": Specialty(
        ("Chest pain", "New atrial fibrillation", "Heart failure, fluid", "Before catheterisation"),
        (
            "chest pain on exertion",
            "an irregular pulse of 128",
            "swollen ankles",
            "a blood pressure of 92/58",
            "palpitations",
        ),
        ("bisoprolol", "apixaban", "furosemide", "ramipril"),
    ),
    "emergency medicine": Specialty(
        ("Fall on the stairs", "Fever without a source", "Burned hand", "Short of breath"),
        ("a temperature of 39.4", "a laceration of the forearm", "a saturation of 88 %", "confusion since last night"),
        ("paracetamol", "salbutamol", "tetanus vaccine", "ceftriaxone"),
    ),
    "oncology": Specialty(
        ("Third cycle", "Nausea at home", "Low neutrophils", "Talk about the scan"),
        ("neutrophils of 0.4", "nausea for three days", "pain of 7/10 at night", "a weight loss of 6 kg"),
        ("ondansetron", "filgrastim", "morphine", "dexamethasone"),
    ),
    "paediatrics": Specialty(
        ("Croup at night", "Weight below the curve", "Rash after antibiotics", "Vaccines due"),
        ("a barking cough", "a rash on the trunk", "poor feeding since yesterday", "ear pain"),
        ("ibuprofen", "dexamethasone", "amoxicillin", "oral rehydration"),
    ),
}
_QUESTIONS = (
    "{age} years old, {finding}. Is {drug} still right?",
    "Bed {bed}: {finding} since {hour}:{minute}. What did we do last time?",
    "Please note for bed {bed}: {drug} given at {hour}:{minute}, {finding} before that.",
    "Is there a reason not to give {drug} with {finding} and a creatinine of {creatinine}?",
    "Draft the handover for bed {bed}. Main problem: {finding}.",
    "Again, please, and shorter.",
)
_RESPONSES = (
    "For {finding} the local guideline starts with a full set of vital signs and a review of the medication list.",
    "The record shows {drug} since {hour}:{minute}. I found no interaction with the other entries.",
    "With a creatinine of {creatinine} the pharmacist should check the dose of {drug} before the next round.",
    "Last documented: {finding} at {hour}:{minute}, unchanged at the next check.",
    "The handover starts with {finding}, followed by the plan for {drug} and the conversation with the family.",
    "This is a summary of what was entered. It replaces neither an examination nor your judgement.",
    "If {finding} gets worse, follow the ward's escalation plan and call the senior physician on duty.",
)
_TOOLS = ("find_guideline", "list_medicines", "latest_results")

# The columns that depend on the sentence: role, content, model, tokens, tool_calls, tool_results, contains_phi.
MessageContent = tuple[str, str, str, int | None, str | None, str | None, bool]


def name(number: int) -> tuple[str, str, str]:
    """Return a given name, an initial and a family name, unique until all combinations are used."""
    number, given_index = divmod(number, len(GIVEN_NAMES))
    number, family_index = divmod(number, len(FAMILY_NAMES))
    return GIVEN_NAMES[given_index], INITIALS[number % len(INITIALS)], FAMILY_NAMES[family_index]


def turns(specialty: str, random: Random) -> list[list[MessageContent]]:
    """Return exchanges. Each has a question, sometimes a tool call with its result, and a response."""
    return [_turn(SPECIALTIES[specialty], random) for _ in range(_TURNS_PER_SPECIALTY)]


def _turn(specialty: Specialty, random: Random) -> list[MessageContent]:
    values: dict[str, Any] = {
        "age": random.randint(1, 97),
        "bed": random.randint(1, 30),
        "hour": random.randint(0, 23),
        "minute": f"{random.randint(0, 59):02}",
        "creatinine": round(random.uniform(0.6, 3.4), 1),
        "finding": random.choice(specialty.findings),
        "drug": random.choice(specialty.drugs),
    }
    question = random.choice(_QUESTIONS).format(**values)
    response = " ".join(random.sample(_RESPONSES, random.randint(1, 5))).format(**values)
    messages: list[MessageContent] = [("user", question, "", None, None, None, True)]
    if random.random() < 0.15:
        tool = random.choice(_TOOLS)
        calls = json.dumps([{"name": tool, "arguments": {"bed": values["bed"], "drug": values["drug"]}}])
        results = json.dumps({"name": tool, "found": random.randint(0, 4), "of": values["finding"]})
        messages.append(("assistant", "", MODEL, 12, calls, None, True))
        messages.append(("tool", "", "", None, None, results, True))
    contains_phi = random.random() < 0.7
    messages.append(("assistant", response, MODEL, len(response) // 4, None, None, contains_phi))
    return messages
