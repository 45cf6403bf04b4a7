"""The simulated torso: anatomy in millimetres, attenuation at 208 keV, regions."""

from __future__ import annotations

import math

import pytest
import torch

from pnp.phantoms import REGIONS, Torso, region_means, torso

WATER = 0.01351
SEEDS = range(6)


def patient(seed: int = 0, shape: tuple[int, int, int] = (64, 64, 40), voxel: float = 6.4) -> Torso:
    return torso(shape, voxel_size_mm=voxel, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def patients() -> list[Torso]:
    return [patient(seed) for seed in SEEDS]


def millilitres(p: Torso, name: str) -> float:
    return float((p.labels == REGIONS.index(name)).sum()) * p.voxel_size_mm**3 / 1000


def centre(p: Torso, name: str) -> list[float]:
    """Centre of mass in mm from the middle of the grid."""
    where = (p.labels == REGIONS.index(name)).nonzero().double().mean(0)
    return [(float(c) - (n - 1) / 2) * p.voxel_size_mm for c, n in zip(where, p.labels.shape, strict=True)]


def test_shapes_and_dtypes(patients: list[Torso]) -> None:
    for p in patients:
        assert p.activity.shape == (1, 1, 64, 64, 40) and p.attenuation.shape == p.labels.shape == (64, 64, 40)
        assert p.activity.dtype == p.attenuation.dtype == torch.float32 and p.labels.dtype == torch.uint8
        assert p.voxel_size_mm == 6.4 and int(p.labels.max()) < len(REGIONS) == len(set(REGIONS))


def test_it_fits_into_every_view(patients: list[Torso]) -> None:
    t = 6.4 * (torch.arange(64) - 31.5)
    outside = torch.hypot(t[:, None], t) > 204.8 - 6.4
    for p in patients:
        for x in (p.activity[0, 0], p.attenuation):
            assert float(x.min()) == 0 and float(x[outside].abs().max()) == 0
        wide = (p.attenuation[:, :, 0] > 0.5 * WATER).any(1).sum() * 6.4
        deep = (p.attenuation[:, :, 0] > 0.5 * WATER).any(0).sum() * 6.4
        assert 290 < wide < 385 and 200 < deep < 275 and deep < wide


def test_organs_have_an_adults_volumes(patients: list[Torso]) -> None:
    for p in patients:
        assert 900 < millilitres(p, "liver") < 2400
        assert 90 < millilitres(p, "spleen") < 350
        for side in ("left", "right"):
            assert 80 < millilitres(p, f"{side} kidney") < 260
        assert millilitres(p, "lungs") > 400  # their bases: the rest is above the field
        lesions = [millilitres(p, name) for name in REGIONS if name.startswith("lesion")]
        assert 1 <= sum(v > 0 for v in lesions) <= 4 and max(lesions) < 25


def test_organs_lie_where_they_belong(patients: list[Torso]) -> None:
    for p in patients:
        at = {name: centre(p, name) for name in REGIONS[1:8]}
        assert at["liver"][0] < -20 and at["spleen"][0] > 60  # on the right, on the left
        assert at["right kidney"][0] < -30 and at["left kidney"][0] > 30
        assert min(at["right kidney"][1], at["left kidney"][1], at["spine"][1]) > 20  # at the back
        assert at["lungs"][2] > at["liver"][2] > max(at["right kidney"][2], at["left kidney"][2])


def test_attenuation_is_that_of_tissue_at_208_kev(patients: list[Torso]) -> None:
    # Water by NIST's table between 200 and 300 keV, in logarithms of both.
    share = math.log(208 / 200) / math.log(300 / 200)
    assert math.exp((1 - share) * math.log(0.01370) + share * math.log(0.01186)) == pytest.approx(WATER, rel=1e-3)
    for p in patients:
        mu = region_means(p.attenuation, p.labels)
        assert mu["body"] == pytest.approx(WATER, rel=0.05) and mu["liver"] == pytest.approx(1.05 * WATER, rel=0.02)
        assert mu["lungs"] == pytest.approx(0.3 * WATER, rel=0.25)
        assert 1.2 * WATER < mu["spine"] < 1.8 * WATER and float(p.attenuation.max()) < 1.8 * WATER


def test_activity_is_hot_in_kidneys_spleen_and_lesions(patients: list[Torso]) -> None:
    for p in patients:
        means = region_means(p.activity, p.labels)
        assert "air" not in means and means["lungs"] < means["body"] < means["liver"]
        assert 0.5 < means["body"] < 1.6
        assert min(means[k] for k in ("spleen", "left kidney", "right kidney")) > 1.2 * means["liver"]
        assert means["left kidney"] == pytest.approx(means["right kidney"], rel=0.2)
        assert all(means[k] > means["liver"] for k in means if k.startswith("lesion"))


def test_the_generator_decides_alone() -> None:
    a, b = patient(1, (32, 32, 20), 12.8), patient(2, (32, 32, 20), 12.8)
    again = patient(1, (32, 32, 20), 12.8)
    assert all(torch.equal(u, v) for u, v in zip(a[:3], again[:3], strict=True))
    assert not torch.equal(a.labels, b.labels)
    assert torch.equal(torso((32, 32, 20), voxel_size_mm=12.8).activity, patient(0, (32, 32, 20), 12.8).activity)


@pytest.mark.parametrize("seed", SEEDS)
def test_the_patient_does_not_depend_on_the_resolution(seed: int) -> None:
    fine, coarse = patient(seed), patient(seed, (32, 32, 20), 12.8)
    for x, y in zip(fine[:2], coarse[:2], strict=True):
        pooled = torch.nn.functional.avg_pool3d(x.reshape(1, 1, 64, 64, 40), 2).reshape(y.shape)
        assert float((pooled - y).norm() / y.norm()) < 0.12
        assert float(pooled.sum()) == pytest.approx(float(y.sum()), rel=0.02)


def test_edges_are_averaged() -> None:
    p = patient()
    inner = (p.labels == REGIONS.index("liver")) & (p.attenuation.sub(0.0142).abs() < 1e-6)
    assert 0.5 < float(inner.sum()) / float((p.labels == REGIONS.index("liver")).sum()) < 1
    rim = ((p.attenuation > 0) & (p.attenuation < 0.0136) & (p.labels < 2)).sum((0, 1))
    assert int(rim.min()) > 60  # of every slice: parts of body beside air


def test_region_means_are_means_over_voxels() -> None:
    labels = torch.zeros(3, 4, 5, dtype=torch.uint8)
    labels[1], labels[2, 0] = 4, 1
    x = torch.arange(120.0).reshape(2, 1, 3, 4, 5)
    found = region_means(x, labels)
    assert list(found) == ["body", "liver"]
    assert found["liver"] == pytest.approx(float(x[:, 0, 1].mean())) and found["body"] == pytest.approx(72.0)


@pytest.mark.parametrize(
    ("options", "error", "match"),
    [
        ({"shape": (64, 48, 40)}, ValueError, r"372 mm.*409\.6 x 307\.2 mm"),
        ({"voxel_size_mm": 4.8}, ValueError, "372 mm"),
        ({"voxel_size_mm": -1.0}, ValueError, "must be positive"),
        ({"voxel_size_mm": "wide"}, TypeError, "voxel_size_mm"),
        ({"shape": (64, 64)}, (TypeError, ValueError), "shape"),
        ({"shape": (64, 64, 0)}, ValueError, "must be positive"),
    ],
)
def test_bad_input_of_a_torso(options: dict[str, object], error: type[Exception], match: str) -> None:
    with pytest.raises(error, match=match) as caught:
        torso(**options)
    assert str(caught.value).startswith("torso: ")


def test_bad_input_of_region_means() -> None:
    labels = torch.zeros(3, 4, 5, dtype=torch.uint8)
    with pytest.raises(ValueError, match=": x "):
        region_means(torch.ones(3, 4), labels)
    with pytest.raises(ValueError, match="labels"):
        region_means(torch.ones(3, 4, 5), labels + 12)


# ---------------------------------------------------------------- other patients


@pytest.fixture(scope="module")
def bent() -> list[Torso]:
    return [torso(generator=torch.Generator().manual_seed(seed), virtual=True) for seed in SEEDS[:3]]


def test_virtual_patients_are_no_ellipsoids(patients: list[Torso], bent: list[Torso]) -> None:
    """The same skin, organs displaced within it, by less than their size."""
    for plain, virtual in zip(patients, bent, strict=False):
        assert torch.equal(plain.labels > 0, virtual.labels > 0)
        liver = REGIONS.index("liver")
        both = ((plain.labels == liver) & (virtual.labels == liver)).sum()
        either = ((plain.labels == liver) | (virtual.labels == liver)).sum()
        assert 0.6 < float(both / either) < 0.97
        assert torch.dist(torch.tensor(centre(plain, "liver")), torch.tensor(centre(virtual, "liver"))) < 8


def test_virtual_uptake_varies_within_organs(patients: list[Torso], bent: list[Torso]) -> None:
    def spread(p: Torso) -> float:
        """Standard deviation over mean, where the whole neighbourhood is liver."""
        inside = torch.nn.functional.avg_pool3d((p.labels == REGIONS.index("liver")).float()[None], 3, 1, 1)[0] > 0.999
        values = p.activity[0, 0][inside]
        return float(values.std() / values.mean())

    assert all(spread(p) < 0.01 for p in patients)
    assert all(0.15 < spread(p) < 0.35 for p in bent)


def test_cold_cores_are_inside_their_lesions() -> None:
    """What is coldest in a lesion is colder than its rim; nothing else of the liver is so cold."""
    colder = []
    for seed in range(4):
        p = torso(generator=torch.Generator().manual_seed(seed), virtual=True)
        liver = p.activity[0, 0][p.labels == REGIONS.index("liver")]
        assert float(liver.min()) > 0.2 * float(liver.mean())
        lesion = p.activity[0, 0][p.labels == REGIONS.index("lesion 1")]
        colder.append(float(lesion.min() / lesion.max()))
    assert min(colder) < 0.3


def test_virtual_patient_is_the_same_at_every_resolution(bent: list[Torso]) -> None:
    """Inside the liver, where the voxels of both are whole, uptake goes up and down at the same places."""
    g = torch.Generator().manual_seed(0)
    coarse, fine = torso((32, 32, 20), voxel_size_mm=12.8, generator=g, virtual=True), bent[0]
    share = torch.nn.functional.avg_pool3d((fine.labels == REGIONS.index("liver")).float()[None], 2)[0]
    averaged = torch.nn.functional.avg_pool3d(fine.activity, 2)[0, 0]
    inside = (share == 1) & (coarse.labels == REGIONS.index("liver"))
    assert int(inside.sum()) > 200
    assert float(torch.corrcoef(torch.stack([averaged[inside], coarse.activity[0, 0][inside]]))[0, 1]) > 0.9


def test_uptake() -> None:
    spheres = torso(generator=torch.Generator().manual_seed(0), uptake="microspheres")
    means = region_means(spheres.activity, spheres.labels)
    assert means["liver"] > 10 * means["body"] and means["left kidney"] < 2 * means["body"]
    with pytest.raises(ValueError, match="uptake"):
        torso(uptake="fdg")
