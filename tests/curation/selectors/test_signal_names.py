"""Every column of the contract is known by the signal that makes it."""

import pytest

from curation.catalogue import signal_of
from curation.selectors.registry import needs


@pytest.mark.parametrize(
    ("columns", "signal"),
    [
        ("cap_ocr exp_ocr ent_ocr mass_fine_grained", "capability"),
        ("styles style_logp_yes_no", "style"),
        ("nll el2n margin answer_tokens", "necessity"),
        ("nll_noimg nll_noq nll_a", "necessity_ablated"),
        ("base_nll base_el2n base_margin base_answer_tokens", "base_losses"),
        ("base_nll_noimg base_nll_a", "base_losses_ablated"),
        ("emb_dino", "embedding_dino"),
        ("emb_tanh_attention_image emb_tanh_attention_text", "embedding_tanh_attention"),
        ("emb_my_text_2", "embedding_my_text_2"),
        ("clip_score clip_image clip_text", "clip"),
        ("cluster_visnec similarity_visnec", "cluster_visnec"),
        ("cluster_two_words similarity_two_words", "cluster_two_words"),
        ("reward judge complexity quality deita_score", "quality"),
        ("grad grad_norm influence_ocr raw_influence_ocr", "gradient"),
        ("clean_adam_grad clean_adam_influence_ocr", "gradient_adam_clean"),
        ("adam_grad adam_grad_norm adam_influence_ocr", "gradient_adam"),
        ("value", "value"),
        ("valid_with valid_without", "validity"),
        ("text_tokens nlls my_nll n_images", None),
    ],
)
def test_signal_of_a_column(columns, signal):
    assert {signal_of(column) for column in columns.split()} == {signal}


def test_top_k_needs_the_signal_of_its_column():
    assert needs("top_k", {"column": "nll_noq"}) == ("necessity_ablated",)
    assert needs("top_k", {"column": "text_tokens"}) == ()
