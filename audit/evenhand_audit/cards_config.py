"""What only people know about a model: a TOML file for `evenhand audit cards --facts`."""

from evenhand.config import Section

__all__ = ["CardFacts"]


class CardFacts(Section):
    """All optional; what is left out stays "to be filled in" in the documents."""

    model_name: str = ""
    model_version: str = ""
    developer: str = ""
    contact: str = ""
    license: str = ""
    """Of the model, as Hugging Face names licences, such as apache-2.0."""
    base_model: str = ""
    """The model that was adapted, as Hugging Face names it."""
    technique: str = ""
    architecture: str = ""
    intended_use: str = ""
    out_of_scope: str = ""
    """What it must not be used for."""
    data_sources: str = ""
    inclusion: str = ""
    acquisition: str = ""
    preprocessing: str = ""
    deidentification: str = ""
    reference_standard: str = ""
    annotators: str = ""
    training: str = ""
    selection: str = ""
    """How the final model was chosen."""
    hardware: str = ""
    oversight: str = ""
    bias_sources: str = ""
    ethics: str = ""
    funding: str = ""
    availability: str = ""
    dataset_license: str = ""
