"""Training: learns, resumes exactly after a stop, refuses bad folders and foreign checkpoints."""

import numpy as np
import pytest
import torch
from skimage.io import imsave

from denoisers import MLPatch, StageSpec
from pnp.data import Crops, load_folder
from pnp.training import NoiseLevels, TrainingOptions, denoising_psnr, load_checkpoint, train_denoiser

TINY = (StageSpec(taps=5, width=24, depth=1, patch=3),)
LEVELS = NoiseLevels(0.02, 0.2)


@pytest.fixture
def folder(tmp_path):
    """Three images of smooth stripes, grey, colour and colour with transparency."""
    root = tmp_path / "images"
    root.mkdir()
    row, column = np.mgrid[:48, :60]
    for k, channels in enumerate((None, 3, 4)):
        wave = 127 + 100 * np.sin(0.2 * (row + (k + 1) * column))
        x = wave if channels is None else np.stack([wave] * channels, -1)
        if channels == 4:
            x[..., 3] = 255
        imsave(root / f"{k}.png", x.astype(np.uint8), check_contrast=False)
    return root


def model(seed=0):
    torch.manual_seed(seed)
    return MLPatch(stages=TINY, stride=2, precision="float32")


def options(steps, **more):
    return TrainingOptions(steps=steps, batch=4, rate=3e-3, warmup=10, strides=(2, 3), **more)


def crops(folder):
    return Crops(load_folder(folder), 20)


def test_training_denoises(folder, tmp_path):
    net = train_denoiser(model(), crops(folder), LEVELS, options(150), checkpoint=tmp_path / "c.pt", progress=False)
    clean = [x.float() / 255 for x in load_folder(folder)]
    assert denoising_psnr(net, clean, 0.1) > 20 + 5  # sigma 0.1 is 20 dB


class Stop(Exception):
    pass


def test_a_stopped_run_resumes_to_the_same_weights(folder, tmp_path):
    whole = train_denoiser(model(), crops(folder), LEVELS, options(12), checkpoint=tmp_path / "a.pt", progress=False)
    sampler, calls = crops(folder), iter(range(100))

    def interrupted(batch, generator):
        if next(calls) == 7:
            raise Stop
        return sampler(batch, generator)

    with pytest.raises(Stop):
        train_denoiser(model(), interrupted, LEVELS, options(12), checkpoint=tmp_path / "b.pt", progress=False)
    assert load_checkpoint(tmp_path / "b.pt")["step"] == 7
    resumed = train_denoiser(
        model(1), crops(folder), LEVELS, options(12), checkpoint=tmp_path / "b.pt", resume=True, progress=False
    )
    for a, b in zip(whole.parameters(), resumed.parameters(), strict=True):
        assert torch.equal(a, b)


def test_a_checkpoint_of_another_model_is_refused(folder, tmp_path):
    path = tmp_path / "c.pt"
    train_denoiser(model(), crops(folder), LEVELS, options(1), checkpoint=path, progress=False)
    other = MLPatch(stages=(StageSpec(taps=3, width=8, depth=1),))
    with pytest.raises(ValueError, match="belongs to another model") as caught:
        train_denoiser(other, crops(folder), LEVELS, options(2), checkpoint=path, resume=True, progress=False)
    assert len(str(caught.value)) < 400
    with pytest.raises(ValueError, match="already"):
        train_denoiser(model(), crops(folder), LEVELS, options(2), checkpoint=path, progress=False)
    path.write_bytes(b"not a checkpoint")
    with pytest.raises(ValueError, match="not a training checkpoint"):
        load_checkpoint(path)


def test_noise_levels_fill_their_range():
    g = torch.Generator().manual_seed(0)
    for law in ("uniform", "log"):
        s = NoiseLevels(0.01, 1.0, law)(4000, g)
        assert 0.01 <= float(s.min()) and float(s.max()) <= 1.0
        median = 0.1 if law == "log" else 0.505
        assert float(s.median()) == pytest.approx(median, rel=0.1)


def test_crops_are_flipped_and_shrunk_and_in_range(folder):
    images = load_folder(folder)
    sampler = Crops(images, 16, shrink=(0.5,))
    assert len(sampler.images) == 2 * len(images)
    x = sampler(8, torch.Generator().manual_seed(0))
    assert x.shape == (8, 1, 16, 16) and 0 <= float(x.min()) and float(x.max()) <= 1


def test_folders_that_cannot_serve_are_named(folder, tmp_path):
    with pytest.raises(ValueError, match="is not a folder"):
        load_folder(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="no image in"):
        load_folder(tmp_path / "empty")
    (folder / "broken.png").write_bytes(b"\x89PNG\r\n")
    with pytest.raises(ValueError, match=r"cannot read broken\.png"):
        load_folder(folder)
    with pytest.raises(ValueError, match="at least 80 x 80"):
        Crops([torch.zeros(1, 48, 60, dtype=torch.uint8)], 80)
    assert load_folder(_without_broken(folder), channels=3)[0].shape == (3, 48, 60)


def _without_broken(folder):
    (folder / "broken.png").unlink()
    return folder
