"""What a training does with the rules about texts and lengths of its spec."""

from dataclasses import replace

import numpy as np

from curation.pool.sample import Turn
from training.fit import fit
from training.models import load_processor
from training.render import Renderer, RenderRules
from training.spec import FitSpec


def test_a_checkpoint_keeps_the_rules_about_its_texts(base, samples, tmp_path):
    spec = FitSpec(max_steps=1, batch_size=4, image_first=True, system="the dog", too_long="truncate")
    assert spec.render_rules() == RenderRules("the dog", True)
    fit(spec, base, samples[:8], tmp_path / "out")
    ruled = Renderer(load_processor(tmp_path / "out")[0], "base")
    asked = replace(samples[0], turns=(Turn("what ? <image>", "red"),))
    told = Renderer(load_processor(base)[0], "base", rules=spec.render_rules())
    np.testing.assert_array_equal(ruled.encode(asked).input_ids, told.encode(asked).input_ids)
    plain = Renderer(load_processor(base)[0], "base").encode(asked).input_ids
    assert len(plain) < len(ruled.encode(asked).input_ids)


def test_long_conversations_do_not_stop_a_training(base, samples, tmp_path):
    long = [replace(s, id=f"long {s.id}", turns=(*s.turns, Turn("what ?", "red " * 90))) for s in samples[:8]]
    spec = FitSpec(max_steps=1, batch_size=4, max_length=80, max_bad_fraction=0.0)
    result = fit(spec, base, [*samples[:8], *long], tmp_path / "dropped")
    assert result["dropped"] == {"too_long": 8}
    cut = spec.model_copy(update={"too_long": "truncate"})
    assert fit(cut, base, [*samples[:8], *long], tmp_path / "cut")["dropped"] == {}
