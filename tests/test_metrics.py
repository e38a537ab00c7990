"""The figures of the tables against closed forms."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from cdd_core.cards import Card
from cdd_core.checkpoint import fingerprint
from cdd_core.data.augment import gaussian_blur
from cdd_core.data.store import HELD_OUT
from cdd_core.data.terra.render import Terra
from cdd_core.evaluation import compare, metrics, report, sheets
from cdd_core.evaluation.command import _homes
from cdd_core.evaluation.photos import DAMAGES, ranks_damage
from cdd_core.evaluation.probe import Probe, load_probe

PROBE = Path(__file__).parents[1] / "checkpoints" / "pocket" / "probe" / "A"


def test_frechet_of_known_normals():
    generator = torch.Generator().manual_seed(0)
    a = torch.randn(20_000, 3, generator=generator, dtype=torch.float64)
    b = 2 * torch.randn(20_000, 3, generator=generator, dtype=torch.float64) + 1
    # |mu|^2 = 3 and (1 - 2)^2 for each of three directions.
    assert metrics.frechet(a, b) == pytest.approx(6.0, rel=0.05)
    assert metrics.frechet(a, b) == pytest.approx(metrics.frechet(b, a), rel=1e-9)
    assert metrics.frechet(a, a) == pytest.approx(0.0, abs=1e-9)


def test_frechet_of_correlated_normals_matches_the_matrix_root():
    from scipy import linalg

    rng = np.random.default_rng(0)
    a = torch.from_numpy(rng.normal(size=(500, 4)) @ rng.normal(size=(4, 4)))
    b = torch.from_numpy(rng.normal(size=(500, 4)) @ rng.normal(size=(4, 4)) + rng.normal(size=4))
    ca, cb = torch.cov(a.T).numpy(), torch.cov(b.T).numpy()
    root = linalg.sqrtm(ca @ cb).real
    expected = ((a.mean(0) - b.mean(0)) ** 2).sum().item() + np.trace(ca + cb - 2 * root)
    assert metrics.frechet(a, b) == pytest.approx(expected, rel=1e-6)


def test_excess_of_true_renders_is_zero():
    points, reference = torch.randn(2, 300, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert metrics.excess(points, points, reference) == 0
    further = metrics.frechet(points + 1, reference) - metrics.frechet(points, reference)
    assert metrics.excess(points + 1, points, reference) == pytest.approx(further)
    assert further > 1


def test_feature_space_whitens_the_reference_and_sees_a_wrong_condition():
    generator = torch.Generator().manual_seed(0)
    statistics = [
        torch.randn(400, 2 * width, generator=generator) @ torch.randn(2 * width, 2 * width, generator=generator)
        for width in (32, 48, 64, 96)
    ]
    codes = torch.stack([torch.randint(k, (400,), generator=generator) for k in (4, 4, 2, 2)], 1)
    # Conditions that the pictures depend on.
    statistics[0][:, 0] += 400 * codes[:, 0]
    depth = torch.rand(400, 1, 64, 64, generator=generator)
    space = metrics.FeatureSpace.fit(statistics)
    points = space.points(statistics, codes, depth)
    assert points.shape == (400, metrics.FEATURES)
    assert metrics.FEATURES <= 64
    own = points[:, : sum(metrics.SCALE_FEATURES)]
    torch.testing.assert_close(own.std(0), torch.ones(own.shape[1], dtype=own.dtype), rtol=0.01, atol=0.01)
    wrong = [s[torch.randperm(400, generator=generator)] for s in statistics]
    shuffled = space.points(wrong, codes, depth)
    assert metrics.frechet(shuffled, points) > 0.1


def test_roughness_tells_a_blur_where_level_does_not():
    generator = torch.Generator().manual_seed(0)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        probe = Probe().eval()
    pictures = torch.rand(4, 3, 128, 128, generator=generator)
    blurred = gaussian_blur(pictures.flatten(0, 1)[:, None], torch.ones(12)).view_as(pictures)
    with torch.no_grad():
        sharp, soft, flat = (metrics.scale_statistics(probe(p))[0] for p in (pictures, blurred, pictures * 0))
    channels = sharp.shape[1] // 3
    assert torch.all(soft[:, 2 * channels :] < sharp[:, 2 * channels :])
    assert torch.isfinite(flat).all(), "an empty picture has figures too"


def test_probe_lpips_is_a_distance_from_a_picture_to_itself_and_others():
    torch.manual_seed(0)
    probe = Probe().eval()
    pictures = torch.rand(3, 3, 128, 128)
    with torch.no_grad():
        reading, other = probe(pictures), probe(pictures.flip(3))
    assert torch.all(metrics.probe_lpips(reading, reading) == 0)
    assert torch.all(metrics.probe_lpips(reading, other) > 0)
    torch.testing.assert_close(metrics.probe_lpips(reading, other), metrics.probe_lpips(other, reading))


@pytest.mark.skipif(not (PROBE / "probe.safetensors").is_file(), reason="no shipped probe yet")
def test_more_damage_is_further_away():
    """By the shipped probe: blur, noise and JPEG from little to much."""
    world, indices = Terra(0, 128), list(range(HELD_OUT, HELD_OUT + 12))
    pictures = world.render(world.scenes(indices), world.attributes(indices)).image
    found = ranks_damage(load_probe(PROBE), pictures)
    assert {kind: rank["passed"] for kind, rank in found.items()} == dict.fromkeys(DAMAGES, True)


def row(variant: str, steps: int, excess: float, sampler: str = "ddim", spread: float = 0.01) -> dict[str, object]:
    return {
        "label": f"{variant} {sampler} {steps} {excess}",
        "variant": variant,
        "sampler": sampler,
        "steps": steps,
        "nfe": steps,
        "guidance": 1.0,
        "image_guidance": 1.0,
        "own_guidance": True,
        "excess": excess,
        "excess_ci": (excess - spread, excess + spread),
        "depth_error": 0.04 * excess,
        "attribute_ratio": 0.95,
        "attribute_ratio_ci": (0.94, 0.96),
        "depth_ratio": 1.2,
        "depth_ratio_ci": (1.1, 1.3),
    }


def resampled(lines: list[dict[str, object]], spread: float = 0.01) -> compare.Draws:
    """All lines move together: what is common to them says nothing of their difference."""
    common = spread * np.random.default_rng(0).standard_normal(100)
    return {line["label"]: {k: line[k] + common for k in ("excess", "depth_error")} for line in lines}


TEACHER = [row("undistilled", k, e) for k, e in ((1, 9.0), (2, 6.0), (4, 4.0), (8, 2.0), (20, 1.0), (50, 0.8))]


def test_relative_figures():
    lines = [*TEACHER, row("distilled", 4, 1.2), row("distilled", 4, 0.1), row("undistilled", 4, 3.0, "unipc")]
    draws = resampled(lines)
    found = compare.standing(lines, lines[6], draws)
    assert found["relative_excess"] == pytest.approx(1.5)
    assert found["relative_excess_ci"][0] < 1.5 < found["relative_excess_ci"][1]
    assert found["equivalent_steps"] == 20
    assert found["gap_closed"] == pytest.approx(2.8 / 3.2)
    assert found["gap_closed_ci"] == pytest.approx((2.8 / 3.2, 2.8 / 3.2)), "what they share cancels"
    # Better than every undistilled run: no number of steps is enough.
    assert compare.standing(lines, lines[7], draws)["equivalent_steps"] is None
    others = compare.rivals(lines, lines[6], draws)
    assert [(each["sampler"], more["excess"][0]) for each, more in others] == [
        ("ddim", pytest.approx(-2.8)),
        ("unipc", pytest.approx(-1.8)),
    ]
    assert all(high - low < 1e-9 for _, more in others for _, (low, high) in more.values()), "what they share cancels"


def test_what_else_a_table_has_is_compared_as_well():
    """Plain enlargement is a rival; a share that was 0.9 and is 0.88 is two points less, not 2.2 per cent."""
    more = {"probe_lpips": 0.2, "change_accuracy": 0.9, "preserve_accuracy": 0.8}
    full, few = ({**row("undistilled", k, 1.0), **more} for k in (50, 4))
    student = {**row("distilled", 4, 1.2), **more, "probe_lpips": 0.21, "change_accuracy": 0.88}
    plain = {**row(compare.BICUBIC, 0, 3.0, "none"), **more, "probe_lpips": 0.5}
    lines = [full, few, student, plain]
    draws = {line["label"]: {k: np.full(9, line[k]) for k in ("excess", "depth_error", *more)} for line in lines}
    ((other, found),) = compare.beside(lines, student, draws)
    assert other is full
    assert found["probe_lpips"][0] == pytest.approx(1.05)
    assert found["excess"][0] == pytest.approx(0.2)
    assert found["change_accuracy"][0] == pytest.approx(-0.02)
    assert found["preserve_accuracy"][1] == pytest.approx((0, 0))
    others = {each["variant"]: more for each, more in compare.rivals(lines, student, draws)}
    assert others.keys() == {"undistilled", compare.BICUBIC}
    assert others[compare.BICUBIC]["probe_lpips"][0] == pytest.approx(-0.29)


def test_a_guided_rival_may_spend_fewer_evaluations_never_more():
    """The better of guided with fewer steps, and unguided with as many."""
    guided = [{**row("undistilled", k, e), "guidance": 1.5, "nfe": 3 * k} for k, e in ((1, 5.0), (2, 3.0))]
    lines = [*TEACHER, *guided, row("distilled", 4, 1.2), row("distilled", 2, 1.5)]
    draws = resampled(lines)

    def nfe(student: dict[str, object]) -> list[tuple[int, float]]:
        return sorted((each["nfe"], each["guidance"]) for each, *_ in compare.rivals(lines, student, draws))

    assert nfe(lines[8]) == [(3, 1.5), (4, 1.0)]
    assert nfe(lines[9]) == [(2, 1.0)]


def test_a_sheet_of_any_number_of_pictures_is_drawn():
    assert sheets.grid_sheet(torch.rand(11, 3, 4, 4)).size == (32, 8)


def test_what_was_asked_stands_below_each_item_of_a_sheet():
    columns = {"given": torch.ones(3, 3, 64, 64), "truth": torch.ones(3, 3, 64, 64)}
    plain, told = (np.asarray(sheets.sheet(columns, 2, words)) for words in ((), ("make it night", "", "add fog")))
    inked = (told < 255).any(2)
    assert len(told) == len(plain) + 2 * 16
    for below, left, words in ((80, 0, True), (80, 134, False), (164, 0, True), (164, 134, False)):
        assert inked[below : below + 16, left : left + 128].any() == words
    assert (told[16:80] == 255).all()


def test_a_ratio_to_nothing_is_left_out():
    perfect = [row("undistilled", 50, 0.01, spread=0.02), row("distilled", 4, 0.5)]
    assert "relative_excess" not in compare.standing(perfect, perfect[1], resampled(perfect))


def test_gap_closed_is_not_quoted_where_intervals_touch():
    wide = [row("undistilled", 4, 4.0, spread=2.0), row("undistilled", 50, 0.8, spread=2.0)]
    student = row("distilled", 4, 1.2)
    assert compare.standing([*wide, student], student, resampled([*wide, student]))["gap_closed"] is None


def test_a_teacher_that_gets_worse_with_steps_is_found_out():
    assert all(found.passed for found in compare.teacher(TEACHER, resampled(TEACHER)))
    worse = [*TEACHER[:-1], row("undistilled", 50, 2.5)]
    assert [found.passed for found in compare.teacher(worse, resampled(worse))] == [False, True, True, True]


def test_a_guided_teacher_is_not_judged_by_its_rows_without_guidance():
    guided = [{**row("undistilled", k, e), "guidance": 1.5} for k, e in ((4, 3.0), (8, 1.4), (50, 0.9))]
    plain = [{**row("undistilled", k, e), "own_guidance": False} for k, e in ((8, 0.3), (50, 0.7))]
    lines = [*guided, *plain]
    assert all(found.passed for found in compare.teacher(lines, resampled(lines)))


def test_an_editor_has_to_do_what_is_asked_and_keep_the_rest():
    told = {f"{k}_ratio": v for k, v in (("change", 0.91), ("preserve", 0.94))}
    lines = [*TEACHER[:-1], {**TEACHER[-1], **told, **{f"{k}_ci": (v, v) for k, v in told.items()}}]
    found = {each.claim.split(" at ")[0]: each.passed for each in compare.teacher(lines, resampled(lines))}
    assert (found["asked change"], found["all else kept"]) == (True, False)


def test_evaluations_are_counted_where_guidance_costs_three():
    """With four evaluations a guided teacher makes one step; to be as good it takes eight, which cost 24."""
    guided = [
        {**row("undistilled", k, e), "guidance": 1.5, "nfe": 3 * k}
        for k, e in ((1, 9.0), (4, 3.0), (8, 1.1), (50, 0.8))
    ]
    lines = [*guided, row("distilled", 4, 1.2)]
    found = compare.standing(lines, lines[-1], resampled(lines))
    assert (found["equivalent_steps"], found["equivalent_evaluations"]) == (8, 24)
    assert found["gap_closed"] == pytest.approx(7.8 / 8.2)


@pytest.mark.parametrize("figure", ["excess", "probe_lpips"])
def test_probes_that_disagree_are_not_trusted(figure: str):
    """Of any figure that rows are compared by; where only one of them is sure, they don't disagree."""
    lines = [{**row("undistilled", 4, 2.0), "probe_lpips": 0.3}, {**row("distilled", 4, 1.0), "probe_lpips": 0.3}]
    noise = 0.01 * np.random.default_rng(0).standard_normal(100)

    def drawn(first: float, second: float) -> compare.Draws:
        told = {"excess": np.zeros(100), "probe_lpips": np.zeros(100)}
        return {
            lines[0]["label"]: {**told, figure: first + noise},
            lines[1]["label"]: {**told, figure: second - noise},
        }

    gate = {"A": {"passed": True}}
    assert not report.trusted(lines, gate, {"A": drawn(2, 1), "B": drawn(1, 2)})
    assert report.trusted(lines, gate, {"A": drawn(2, 1), "B": drawn(1, 1)})
    assert not report.trusted(lines, {"A": {"passed": False}}, {"A": drawn(2, 1), "B": drawn(2, 1)})


def test_another_probes_lines_have_its_figures():
    line = {**row("undistilled", 4, 2.0), "excess_b": 3.0, "excess_b_ci": (2.9, 3.1), "depth_ratio_b": 1.4}
    assert compare.seen_by([line], "A") == [line]
    (seen,) = compare.seen_by([line], "B")
    assert (seen["excess"], seen["excess_ci"], seen["depth_ratio"]) == (3.0, (2.9, 3.1), 1.4)
    assert (seen["label"], seen["depth_error"]) == (line["label"], line["depth_error"])


@pytest.mark.parametrize("passed", [True, False])
def test_nothing_is_concluded_before_the_probes_have_passed(passed: bool):
    damages = {f"fd_{k}": 1.0 for k in ("real", "vae", "blur", "shuffled")}
    gate = {"A": {"attribute_accuracy": 1.0, **damages, "depth_error": 0.04, "depth_error_shuffled": 0.2}}
    gate["A"] |= {"passed": passed, "psnr_vae": 35.0, "true": {"attribute_accuracy": 1.0, "depth_error": 0.04}}
    more = {"task": "depth", "n": 2000, "seed": 0, "precision": "no", "guidance": 1.0, "attribute_accuracy": 0.9}
    lines = [{**line, **more} for line in [*TEACHER, row("distilled", 4, 0.7)]]
    text = report.markdown(lines, gate, "python", {"A": resampled(lines)})
    assert ("## Distilled against undistilled" in text) is passed
    assert ("| 4 | A | 0.875 [" in text) is passed
    assert ("| distilled ddim 4 | undistilled ddim 4 | 4 | A | -3.300 [" in text) is passed
    assert ("| distilled ddim 4 | undistilled ddim 50 | 50 | A | -0.100 [" in text) is passed
    assert ("nothing is concluded" in text) is not passed
    assert "A quick look" not in text


def test_of_several_guidances_the_best_one_is_the_rival():
    lines = [row("undistilled", 50, 3.0), row("undistilled", 50, 2.0), row("undistilled", 50, 4.0)]
    student = row("distilled", 4, 3.0)
    found = compare.standing([*lines, student], student, resampled([*lines, student]))
    assert found["relative_excess"] == pytest.approx(1.5)


def test_a_student_is_set_beside_fifty_steps_at_each_guidance_its_teachers_own_first():
    plain = {**row("undistilled", 50, 1.0), "own_guidance": False, "change_accuracy": 0.8, "probe_lpips": 0.1}
    guided = {**row("undistilled", 50, 2.0), "guidance": 1.5, "label": "guided", "change_accuracy": 0.9}
    lines = [plain, {**guided, "probe_lpips": 0.4}]
    student = {**row("distilled", 4, 1.0), "change_accuracy": 0.88, "probe_lpips": 0.2}
    draws = {
        line["label"]: {k: np.full(9, line[k]) for k in ("excess", "depth_error", "change_accuracy", "probe_lpips")}
        for line in [*lines, student]
    }
    found = compare.beside([*lines, student], student, draws)
    assert [line["guidance"] for line, _ in found] == [1.5, 1.0]
    assert [told["change_accuracy"][0] for _, told in found] == pytest.approx([-0.02, 0.08])
    assert [told["probe_lpips"][0] for _, told in found] == pytest.approx([0.5, 2.0])


def test_bootstrap_is_shared_by_variants():
    assert np.array_equal(metrics.bootstrap(50, 3, 7), metrics.bootstrap(50, 3, 7))
    low, high = metrics.interval(np.arange(1001))
    assert (low, high) == (25.0, 975.0)


def test_only_what_was_asked_counts():
    hits = torch.tensor([[1, 1, 1, 1], [0, 1, 1, 1], [1, 0, 0, 1], [0, 0, 0, 0]]).float()
    asked = torch.tensor([[1, 0, 0, 0], [0, 1, 1, 0], [1, 1, 0, 0], [0, 0, 0, 0]]).bool()
    found = metrics.all_hit(hits, asked)
    assert found[:3].tolist() == [1, 1, 0]
    assert found[3].isnan(), "the last row asked for nothing"
    assert metrics.all_hit(hits, ~asked).tolist() == [1, 0, 0, 0]


def test_a_picture_is_nearest_to_itself():
    torch.manual_seed(0)
    probe, generator = Probe().eval(), torch.Generator().manual_seed(0)
    truth = torch.rand(3, 3, 128, 128, generator=generator)
    noisy = (truth + 0.1 * torch.randn(truth.shape, generator=generator)).clamp(0, 1)
    worse = (truth + 0.3 * torch.randn(truth.shape, generator=generator)).clamp(0, 1)
    with torch.no_grad():
        own = probe(truth)
        rows = [metrics.paired_figures(p, truth, probe(p), own) for p in (truth, noisy, worse)]
    psnr, ssim, distance = torch.stack(rows).unbind(2)
    assert torch.all(ssim[0] > 0.999)
    assert torch.all(distance[0] == 0)
    before = truth.clone()
    before[:, :, 64:] = 1 - before[:, :, 64:]
    half_wrong = torch.where(before == truth, noisy, 0.0)
    with torch.no_grad():
        outside = metrics.paired_figures(half_wrong, truth, own, own, before)[:, 3]
        nowhere = metrics.paired_figures(noisy, truth, own, own, (truth + 0.5) % 1)[:, 3]
    torch.testing.assert_close(outside, metrics.paired_figures(noisy, truth, own, own, truth)[:, 3], rtol=0.02, atol=0)
    assert nowhere.isnan().all()
    for best, middle, last in ((psnr[0], psnr[1], psnr[2]), (ssim[0], ssim[1], ssim[2])):
        assert torch.all((best > middle) & (middle > last))
    assert torch.all((distance[1] > 0) & (distance[2] > distance[1]))


def test_measured_rows_depend_on_all_weights_that_draw(family: Path, tmp_path: Path):
    """Low-rank changes draw with the network that they change, which lies in another folder."""
    shutil.copytree(family / "edit", tmp_path / "edit")
    folder, card = tmp_path / "edit" / "distilled", Card.read(family / "edit" / "undistilled")
    alone, changed = replace(card, unet=""), replace(card, unet="../undistilled/unet")
    folder.mkdir()
    before = [fingerprint(_homes(folder, each)) for each in (alone, changed)]
    file = next((tmp_path / "edit" / "undistilled" / "unet").glob("*.safetensors"))
    file.write_bytes(file.read_bytes() + b" ")
    after = [fingerprint(_homes(folder, each)) for each in (alone, changed)]
    assert [one == other for one, other in zip(before, after, strict=True)] == [True, False]
