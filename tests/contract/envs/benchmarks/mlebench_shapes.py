"""Stand-ins for the prepared data of 76 competitions of MLE-bench, its 75 among them.

What columns answers and sample submissions have, and what stands in them, was read from
`mlebench/competitions/*/{prepare,grade}.py` of github.com/openai/mle-bench at 783b15a; the values are made up.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pandas as pd

ROWS = 60
CELLS = "1 2 5 3"
"""A mask as run lengths."""
Table = pd.DataFrame
Shape = Callable[[np.random.Generator, str], tuple[Any, Table]]
"""Answers (a table, or records of a .jsonl file) and the sample submission."""


def ids(key: str) -> Table:
    return Table({key: [f"r{i:03}" for i in range(ROWS)]})


def binary(key: str, target: str, sample: float = 0.5) -> Shape:
    return lambda rng, _: (ids(key).assign(**{target: np.arange(ROWS) % 2}), ids(key).assign(**{target: sample}))


def chosen(key: str, target: str, values: Sequence[Any], sample: Any = None) -> Shape:
    """One of some values, which may be texts."""

    def make(rng: np.random.Generator, _: str) -> tuple[Table, Table]:
        answers = ids(key).assign(**{target: [values[i % len(values)] for i in range(ROWS)]})
        return answers, ids(key).assign(**{target: values[0] if sample is None else sample})

    return make


def number(key: str, target: str, sample: float = 1.0) -> Shape:
    return lambda rng, _: (ids(key).assign(**{target: rng.uniform(1, 90, ROWS)}), ids(key).assign(**{target: sample}))


def one_hot(key: str, classes: Sequence[str] | str, sure: bool = True) -> Shape:
    """classes: or MODULE:NAME of them in the competition's folder. sure: rows sum to one."""

    def make(rng: np.random.Generator, name: str) -> tuple[Table, Table]:
        columns = classes if not isinstance(classes, str) else of_module(name, classes)
        truth = np.eye(len(columns), dtype=int)[np.arange(ROWS) % len(columns)]
        if not sure:  # several at once, and each class both there and not
            truth = rng.integers(0, 2, truth.shape)
            truth[0], truth[1] = 0, 1
        flat = np.full(truth.shape, 1 / len(columns) if sure else 0.5)
        return joined(ids(key), columns, truth), joined(ids(key), columns, flat)

    return make


def joined(keys: Table, columns: Sequence[str], values: np.ndarray) -> Table:
    return pd.concat([keys, Table(values, columns=list(columns))], axis=1)


def of_module(name: str, what: str) -> Sequence[str]:
    module, _, attribute = what.partition(":")
    return getattr(importlib.import_module(f"mlebench.competitions.{name}.{module}"), attribute)


def with_columns(base: Shape, **more: Callable[[np.random.Generator], Any]) -> Shape:
    """The answers with further columns."""

    def make(rng: np.random.Generator, name: str) -> tuple[Table, Table]:
        answers, sample = base(rng, name)
        return answers.assign(**{column: value(rng) for column, value in more.items()}), sample

    return make


def random_sample(base: Shape) -> Shape:
    """A sample that is not constant, where the metric is a correlation."""

    def make(rng: np.random.Generator, name: str) -> tuple[Table, Table]:
        answers, sample = base(rng, name)
        return answers, sample.assign(**{column: rng.uniform(size=ROWS) for column in sample.columns[1:]})

    return make


def quest(rng: np.random.Generator, name: str) -> tuple[Table, Table]:
    columns = of_module(name, "classes:CLASSES")
    tables = [joined(ids("qa_id"), columns, rng.uniform(size=(ROWS, len(columns)))) for _ in range(2)]
    return tables[0], tables[1]


def votes(rng: np.random.Generator, name: str) -> tuple[Table, Table]:
    columns, key = of_module(name, "constants:TARGET_COLS"), of_module(name, "constants:ID_COL")
    return (
        joined(ids(key), columns, rng.integers(1, 9, (ROWS, len(columns)))),
        joined(ids(key), columns, np.full((ROWS, len(columns)), 1 / len(columns))),
    )


def toxicity(rng: np.random.Generator, name: str) -> tuple[Table, Table]:
    identities = (
        "male", "female", "homosexual_gay_or_lesbian", "christian", "jewish", "muslim", "black", "white",
        "psychiatric_or_mental_illness",
    )  # fmt: skip
    answers = joined(ids("id"), identities, rng.integers(0, 2, (ROWS, len(identities))))
    return answers.assign(toxicity=rng.integers(0, 2, ROWS)), ids("id").assign(prediction=0.0)


def fractures(rng: np.random.Generator, name: str) -> tuple[Table, Table]:
    kinds = [*(f"C{i}" for i in range(1, 8)), "patient_overall"]
    table = Table(
        [(f"{i}_{kind}", i, (i + j) % 2) for i in range(ROWS // 4) for j, kind in enumerate(kinds)],
        columns=["row_id", "StudyInstanceUID", "fractured"],
    )
    return table.assign(prediction_type=kinds * (ROWS // 4)), table[["row_id"]].assign(fractured=0.5)


def boxes(rng: np.random.Generator, name: str) -> tuple[Table, Table]:
    rows = [(f"r{i}", i % 3, f"class {i % 3}", "R1", 10, 10, 50, 60, 100, 100) for i in range(ROWS)]
    columns = (
        "image_id", "class_id", "class_name", "rad_id", "x_min", "y_min", "x_max", "y_max", "width", "height",
    )  # fmt: skip
    answers = Table(rows, columns=list(columns))
    return answers, answers[["image_id"]].assign(PredictionString="2 0.5 10 10 50 60")


def questions(rng: np.random.Generator, name: str) -> tuple[list[dict], Table]:
    records = [
        {
            "example_id": str(i),
            "annotations": [
                {
                    "long_answer": {"start_token": i, "end_token": i + 9}, "yes_no_answer": "NONE",
                    "short_answers": [{"start_token": i, "end_token": i + 2}],
                }
            ],
        }
        for i in range(ROWS)
    ]  # fmt: skip
    asked = [f"{i}_{kind}" for i in range(ROWS) for kind in ("long", "short")]
    return records, Table({"example_id": asked, "PredictionString": "0:9"})


def trips(rng: np.random.Generator, name: str) -> tuple[Table, Table]:
    table = Table({"tripId": [f"t{i % 3}" for i in range(ROWS)], "UnixTimeMillis": 1000 * np.arange(ROWS)})
    track = table.assign(LatitudeDegrees=37 + rng.uniform(size=ROWS), LongitudeDegrees=-122 + rng.uniform(size=ROWS))
    return track, table.assign(LatitudeDegrees=37.9, LongitudeDegrees=-122.8)


def patients(rng: np.random.Generator, name: str) -> tuple[Table, Table]:
    weeks = Table({"Patient_Week": [f"p{i // 6}_{i % 6}" for i in range(ROWS)]})
    answers = weeks.assign(Patient=[f"p{i // 6}" for i in range(ROWS)], FVC=rng.uniform(1500, 4000, ROWS))
    return answers, weeks.assign(FVC=2000, Confidence=100)


def organs(rng: np.random.Generator, name: str) -> tuple[Table, Table]:
    rows = [
        (f"case{i // 12}_day0_slice_{i // 3 % 4:04}", ["large_bowel", "small_bowel", "stomach"][i % 3])
        for i in range(ROWS)
    ]
    table = Table(rows, columns=["id", "class"])
    return table.assign(predicted=CELLS, image_height=8, image_width=8), table.assign(predicted="1 3")


def bases(rng: np.random.Generator, name: str) -> tuple[Table, Table]:
    shown = ["reactivity", "deg_Mg_pH10", "deg_pH10", "deg_Mg_50C", "deg_50C"]
    answers = joined(ids("id_seqpos"), shown, rng.uniform(size=(ROWS, 5))).assign(keep=True)
    return answers, joined(ids("id_seqpos"), shown, np.zeros((ROWS, 5)))


def masks(key: str, truth: str, guess: str, width: str, height: str) -> Shape:
    def make(rng: np.random.Generator, _: str) -> tuple[Table, Table]:
        return ids(key).assign(**{truth: CELLS, width: 8, height: 8}), ids(key).assign(**{guess: "1 3"})

    return make


def neutrinos(rng: np.random.Generator, name: str) -> tuple[Table, Table]:
    return (
        joined(ids("event_id"), ["azimuth", "zenith"], rng.uniform(0, 3, (ROWS, 2))),
        joined(ids("event_id"), ["azimuth", "zenith"], np.ones((ROWS, 2))),
    )


def energies(rng: np.random.Generator, name: str) -> tuple[Table, Table]:
    columns = ["formation_energy_ev_natom", "bandgap_energy_ev"]
    return (
        joined(ids("id"), columns, rng.uniform(size=(ROWS, 2))),
        joined(ids("id"), columns, np.full((ROWS, 2), 0.1)),
    )


SHAPES: dict[str, Shape] = {
    "3d-object-detection-for-autonomous-vehicles": chosen(
        "Id", "PredictionString", ["1.0 10 20 -18 1.8 4.6 1.6 2.6 car"], "0.5 10 20 -18 1.8 4.6 1.6 2.6 car"
    ),
    "AI4Code": chosen("id", "cell_order", ["a b c d", "b a c d"], "d b a c"),
    "aerial-cactus-identification": binary("id", "has_cactus"),
    "alaska2-image-steganalysis": binary("Id", "Label", 0),
    "aptos2019-blindness-detection": chosen("id_code", "diagnosis", [0, 1, 2, 3, 4], 0),
    "billion-word-imputation": chosen("id", "sentence", ["a sentence is whole", "so is this"], "a is whole"),
    "bms-molecular-translation": chosen("image_id", "InChI", ["InChI=1S/H2O/h1H2", "InChI=1S/CH4/h1H4"]),
    "cassava-leaf-disease-classification": chosen("image_id", "label", [0, 1, 2, 3, 4], 4),
    "cdiscount-image-classification-challenge": chosen("_id", "category_id", [1000010653, 1000004079, 1000004141]),
    "chaii-hindi-and-tamil-question-answering": chosen("id", "PredictionString", ["a b", "b c", "c"], "a"),
    "champs-scalar-coupling": with_columns(
        number("id", "scalar_coupling_constant", 0.0), type=lambda rng: ["1JHC", "2JHH"] * (ROWS // 2)
    ),
    "denoising-dirty-documents": number("id", "value"),
    "detecting-insults-in-social-commentary": binary("Comment", "Insult", 0),
    "dog-breed-identification": one_hot("id", "dogs:DOGS_LIST"),
    "dogs-vs-cats-redux-kernels-edition": binary("id", "label"),
    "facebook-recruiting-iii-keyword-extraction": chosen("Id", "Tags", ["python pandas", "java", "python"], "java"),
    "freesound-audio-tagging-2019": one_hot("fname", "vocabulary:CLASS_NAMES"),
    "google-quest-challenge": quest,
    "google-research-identify-contrails-reduce-global-warming": masks(
        "record_id", "encoded_pixels", "encoded_pixels", "width", "height"
    ),
    "h-and-m-personalized-fashion-recommendations": chosen("customer_id", "prediction", ["a b", "c"], "a c"),
    "herbarium-2020-fgvc7": chosen("Id", "Predicted", [0, 1, 2]),
    "herbarium-2021-fgvc8": chosen("Id", "Predicted", [0, 1, 2]),
    "herbarium-2022-fgvc9": chosen("Id", "Predicted", [0, 1, 2]),
    "histopathologic-cancer-detection": binary("id", "label", 0),
    "hms-harmful-brain-activity-classification": votes,
    "hotel-id-2021-fgvc8": chosen("image", "hotel_id", ["36363", "53586"], "36363 53586"),
    "hubmap-kidney-segmentation": masks("id", "encoding", "predicted", "width_pixels", "height_pixels"),
    "icecube-neutrinos-in-deep-ice": neutrinos,
    "imet-2020-fgvc7": chosen("id", "attribute_ids", ["0 1", "2", "1 2"], "0 1 2"),
    "inaturalist-2019-fgvc6": chosen("id", "predicted", [0, 1, 2], "0 1"),
    "invasive-species-monitoring": binary("name", "invasive"),
    "iwildcam-2019-fgvc6": chosen("Id", "Category", [0, 1, 13]),
    "iwildcam-2020-fgvc7": chosen("Id", "Category", [0, 1, 13]),
    "jigsaw-toxic-comment-classification-challenge": one_hot("id", "classes:CLASSES", sure=False),
    "jigsaw-unintended-bias-in-toxicity-classification": toxicity,
    "kuzushiji-recognition": chosen("image_id", "labels", ["U+003F 1 1 10 10"], "U+003F 3 3"),
    "leaf-classification": one_hot("id", "classes:CLASSES"),
    "learning-agency-lab-automated-essay-scoring-2": chosen("essay_id", "score", [1, 2, 3, 4, 5, 6], 3),
    "lmsys-chatbot-arena": one_hot("id", ["winner_model_a", "winner_model_b", "winner_tie"]),
    "mlsp-2013-birds": binary("Id", "Probability", 0),
    "multi-modal-gesture-recognition": chosen("Id", "Sequence", ["1 2 3", "3 2 1"], "1 2 3"),
    "new-york-city-taxi-fare-prediction": number("key", "fare_amount", 11.35),
    "nfl-player-contact-detection": binary("contact_id", "contact", 0),
    "nomad2018-predict-transparent-conductors": energies,
    "osic-pulmonary-fibrosis-progression": patients,
    "petfinder-pawpularity-score": number("Id", "Pawpularity", 50),
    "plant-pathology-2020-fgvc7": one_hot("image_id", ["healthy", "multiple_diseases", "rust", "scab"]),
    "plant-pathology-2021-fgvc8": chosen("image", "labels", ["scab", "rust complex", "healthy"]),
    "predict-volcanic-eruptions-ingv-oe": number("segment_id", "time_to_eruption", 0),
    "random-acts-of-pizza": binary("request_id", "requester_received_pizza", 0),
    "ranzcr-clip-catheter-line-classification": one_hot("StudyInstanceUID", "classes:CLASSES", sure=False),
    "rsna-2022-cervical-spine-fracture-detection": fractures,
    "rsna-breast-cancer-detection": binary("prediction_id", "cancer"),
    "rsna-miccai-brain-tumor-radiogenomic-classification": binary("BraTS21ID", "MGMT_value"),
    "seti-breakthrough-listen": binary("id", "target"),
    "siim-covid19-detection": chosen(
        "id", "PredictionString", ["none 1 0 0 1 1", "opacity 1 10 10 50 60 negative 1 0 0 1 1"], "none 1 0 0 1 1"
    ),
    "siim-isic-melanoma-classification": binary("image_name", "target", 0),
    "smartphone-decimeter-2022": trips,
    "spooky-author-identification": one_hot("id", ["EAP", "HPL", "MWS"]),
    "stanford-covid-vaccine": bases,
    "statoil-iceberg-classifier-challenge": binary("id", "is_iceberg"),
    "tabular-playground-series-dec-2021": chosen("Id", "Cover_Type", [1, 2, 3, 7], 2),
    "tabular-playground-series-may-2022": binary("id", "target"),
    "tensorflow-speech-recognition-challenge": chosen("fname", "label", ["yes", "no", "silence"], "silence"),
    "tensorflow2-question-answering": questions,
    "text-normalization-challenge-english-language": chosen("id", "after", ["two", "of", "may"], "2"),
    "text-normalization-challenge-russian-language": chosen("id", "after", ["два", "и", "мая"], "2"),
    "tgs-salt-identification-challenge": chosen("id", "rle_mask", [CELLS], "1 1"),
    "the-icml-2013-whale-challenge-right-whale-redux": binary("clip", "probability", 0),
    "tweet-sentiment-extraction": chosen("textID", "selected_text", ["so good", "sad"], "good"),
    "us-patent-phrase-to-phrase-matching": random_sample(chosen("id", "score", [0.0, 0.25, 0.5, 0.75, 1.0])),
    "uw-madison-gi-tract-image-segmentation": organs,
    "ventilator-pressure-prediction": with_columns(
        number("id", "pressure", 0.0), u_out=lambda rng: np.arange(ROWS) % 2
    ),
    "vesuvius-challenge-ink-detection": masks("Id", "Predicted", "Predicted", "width", "height"),
    "vinbigdata-chest-xray-abnormalities-detection": boxes,
    "whale-categorization-playground": chosen("Image", "Id", ["w_1", "w_2", "new_whale"], "new_whale w_1"),
}
