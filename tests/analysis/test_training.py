"""Training from nothing on a tiny set: the same seed, the same weights; the command leaves weights and a card."""

import numpy as np
import pytest
import torch

from bluesky_edgestem.analysis import train_descriptors, training, training_data
from bluesky_edgestem.analysis.networks import DescriptorNetwork
from bluesky_edgestem.analysis.scattering import ScatteringModel


@pytest.fixture(scope="module")
def sets() -> list[training_data.PatternSet]:
    return [training_data.simulate_condition(1, index, 4) for index in (1, 2, 3)]


def fitted(sets, seed: int) -> ScatteringModel:
    torch.manual_seed(seed)
    model = ScatteringModel()
    training.fit_scattering(model, sets, 2, np.random.default_rng(seed))
    return model


def test_the_same_seed_gives_the_same_weights(sets):
    one, same, other = (fitted(sets, seed).state_dict() for seed in (0, 0, 1))
    assert all(torch.equal(one[k], same[k]) for k in one)
    assert not all(torch.equal(one[k], other[k]) for k in one)


def test_training_lowers_the_deviance(sets):
    before, after = ScatteringModel(), ScatteringModel()
    with torch.no_grad():
        before.log_intensity.add_(0.3)
        after.load_state_dict(before.state_dict())
    training.fit_scattering(after, sets, 12, np.random.default_rng(0))

    def deviance(model: ScatteringModel) -> float:
        with torch.no_grad():
            return float(sum(training.scattering_loss(model, s, np.random.default_rng(5)) for s in sets))

    assert deviance(after) < 0.5 * deviance(before)


def test_averaged_weights_are_near_the_last_ones(sets):
    begun, last, averaged = (ScatteringModel() for _ in range(3))
    for model in (last, averaged):
        model.load_state_dict(begun.state_dict())
    training.fit_scattering(last, sets, 10, np.random.default_rng(0))
    training.fit_scattering(averaged, sets, 10, np.random.default_rng(0), averaging="weights")
    apart = (averaged.log_intensity - last.log_intensity).abs().max()
    assert 0 < apart < 0.2 * (last.log_intensity - begun.log_intensity).abs().max()


def test_noise_that_is_drawn_twice_is_of_half_as_many_patterns(sets, monkeypatch):
    read = []

    def draw(made, optics, which, rng):
        read.append(which)
        return drawn(made, optics, which, rng)

    drawn = training.draw_counts
    monkeypatch.setattr(training, "draw_counts", draw)
    network = DescriptorNetwork.pretrained()
    training.fit_uncertainties(network, sets, 1, np.random.default_rng(0), averaging="noise")
    for which in read:
        assert len(which) == 4 and len(set(which)) == 2
    assert len(read) == len(sets)


def test_the_network_learns_its_uncertainties(sets):
    network = DescriptorNetwork()
    network.scattering.load_state_dict(DescriptorNetwork.pretrained().scattering.state_dict())
    frozen = {k: v.clone() for k, v in network.scattering.state_dict().items()}
    untouched = [p.clone() for p in network.head.parameters()]
    losses = training.fit_uncertainties(network, sets, 2, np.random.default_rng(0))
    assert np.isfinite(losses).all()
    assert all(torch.equal(v, frozen[k]) for k, v in network.scattering.state_dict().items())
    assert any(not torch.equal(a, b) for a, b in zip(untouched, network.head.parameters(), strict=True))


def test_the_command_leaves_weights_and_a_card(tmp_path, capsys):
    out = tmp_path / "weights" / "mine.pt"
    arguments = ["--out", str(out), "--data", str(tmp_path / "p.h5"), "--seed", "5", "--patterns", "48"]
    assert train_descriptors.main(arguments) == 0
    assert "judging on 1 held-out conditions" in capsys.readouterr().out
    network = DescriptorNetwork.pretrained(out)
    assert network.card["patterns"] == 24 and network.card["held_out_patterns"] == 24
    assert set(network.card["held_out"]) == {"1e4", "1e5", "1e6"}
    assert "--seed 5 --patterns 48" in out.with_suffix(".md").read_text()


def test_a_data_file_of_another_seed_is_one_clear_message(tmp_path):
    data = tmp_path / "p.h5"
    training_data.generate(data, seed=1, n_patterns=1, per_condition=1)
    with pytest.raises(ValueError, match=r"choose another file, or that seed"):
        train_descriptors.main(["--data", str(data), "--seed", "2", "--patterns", "48"])


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--patterns", "24"], "'24' is not a whole number of 48 or more"),
        (["--seed", "-3"], "is not a whole number of 0 or more"),
        (["--minutes", "-1"], "'-1' is no time: minutes, 0 or more"),
        (["--material", "Si", "--patterns", "96"], "--patterns: for the likelihood network"),
        (["--steps", "9", "--device", "cpu"], "--steps, --device: for the crystal network; name a thick --material"),
    ],
)
def test_settings_that_cannot_be_are_refused_before_anything_is_computed(words, said, capsys):
    with pytest.raises(SystemExit):
        train_descriptors.main(words)
    assert said in " ".join(capsys.readouterr().err.split())


def test_an_averaging_that_is_none_is_refused_before_anything_is_computed(tmp_path, capsys):
    with pytest.raises(SystemExit):
        train_descriptors.main(["--data", str(tmp_path / "p.h5"), "--averaging", "all"])
    assert "invalid choice: 'all' (choose from 'weights', 'noise', 'both', 'none')" in capsys.readouterr().err
    assert not (tmp_path / "p.h5").exists()


def test_a_data_file_that_was_cut_short_is_one_clear_message(tmp_path):
    data = tmp_path / "p.h5"
    data.write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(88))
    with pytest.raises(OSError, match=r"p.h5 cannot be added to .* delete the file and begin anew"):
        train_descriptors.main(["--data", str(data)])
