"""Which arms there are, and what each one's result depends on."""

import shutil

import pytest

from evenhand.cases.store import CaseStore
from evenhand.config import ExperimentConfig
from evenhand.errors import ConfigError, DataError
from evenhand.experiment.arms import Arm, arms_of
from evenhand.experiment.layout import RunFolder
from evenhand.experiment.stages import prepare_cases
from evenhand.progress import progress_bar

KINDS = ("box-zero-shot", "local", "pooled", "federated", "federated-private", "warm-start")
TRAINED = {"local", "pooled", "federated", "federated-private", "warm-start"}
EVERYTHING = set(KINDS)


def config_of(**changes):
    """An experiment on two phantom hospitals; dotted keys change it."""
    raw = {"name": "tiny", "data": {"phantom": {"patients": {"north": 3, "south": 2}}}}
    for key, value in changes.items():
        section, _, name = key.partition("__")
        if name:
            raw.setdefault(section, {})[name] = value
        else:
            raw[key] = value
    return ExperimentConfig.model_validate(raw)


class TestArms:
    """Order and names of the arms."""

    def test_all(self):
        """One local arm a hospital; the rest once each, in the config's order."""
        names = [arm.name for arm in arms_of(config_of(), ("north", "south"))]
        assert names == [
            "box-zero-shot",
            "local-north",
            "local-south",
            "pooled",
            "federated",
            "federated-private",
        ]

    def test_order_is_the_configs(self):
        """What is asked for first runs first."""
        config = config_of(arms=["pooled", "box-zero-shot"])
        assert [arm.name for arm in arms_of(config, ("north",))] == ["pooled", "box-zero-shot"]

    def test_hospitals(self):
        """A local arm uses its own hospital's patients, the others everybody's."""
        arms = {arm.name: arm for arm in arms_of(config_of(), ("north", "south"))}
        assert arms["local-south"].hospitals == ("south",)
        assert arms["pooled"].hospitals == ("north", "south")

    def test_warm_start_comes_before_the_private_arm(self):
        """Where the private arm starts from phantoms, they are trained on first, and shown."""
        config = config_of(arms=["federated-private"], warm_start__phantoms=8)
        arms = arms_of(config, ("north", "south"))
        assert [arm.name for arm in arms] == ["warm-start", "federated-private"]
        assert arms[0].hospitals == ()

    def test_parts_of_ones_own_do_not_start_from_phantoms(self):
        """Half of an adapter from phantoms and half at random is what nobody means."""
        start = {"phantoms": 4}
        with pytest.raises(ValueError, match=r"leave federated out of warm_start\.arms"):
            config_of(
                federation__local_parts=["head.leave.*"], arms=["federated"], warm_start=start
            )
        start["arms"] = ["local", "pooled"]
        config_of(federation__local_parts=["head.leave.*"], arms=["federated"], warm_start=start)

    @pytest.mark.parametrize("kind", KINDS)
    def test_note(self, kind):
        """Every arm says in the report what it is."""
        assert len(Arm(kind, kind, ()).note) > 20


# What a change of one key makes worthless, and so trains again.
CHANGES = {
    "seed": (3, EVERYTHING),
    "model__image_size": (256, EVERYTHING),
    "data__test_fraction": (0.5, EVERYTHING),
    "training__epochs": (3, {"local", "pooled", "warm-start"}),
    "training__learning_rate": (0.1, TRAINED - {"federated-private"}),
    "training__patients_per_step": (2, TRAINED - {"federated-private"}),
    "training__weight_decay": (0.5, TRAINED - {"federated-private"}),
    "training__tumour_slices": (3, TRAINED),
    "training__box_jitter": (1, TRAINED),
    "training__intensity_jitter": (0.1, TRAINED),
    "federation__rounds": (2, {"federated"}),
    "federation__local_epochs": (2, {"federated"}),
    "federation__minimum_hospitals": (1, set()),
    "federation__round_timeout_s": (5.0, set()),
    "federation__client_cpus": (2, set()),
    "federation__precision": ("float32", {"federated"}),
    "privacy__epsilon": (2.0, {"federated-private"}),
    "privacy__clip_norm": (0.5, {"federated-private"}),
    "privacy__rounds": (3, {"federated-private"}),
    "warm_start__phantoms": (8, TRAINED),
    "warm_start__epochs": (8, {"warm-start"}),
    "audit__nsd_tolerance": (1.0, set()),
    "audit__resamples": (100, set()),
    "audit__minimum_group": (2, set()),
    "arms": (["pooled"], set()),
}


def test_arms_of_earlier_versions_still_count():
    """Keys that came later, at what was done before, leave the fingerprints of 2026-11-24 alone."""
    before = {"federation": {"precision": "float32"}}
    config = ExperimentConfig.model_validate({"name": "old", "data": {"phantom": {}}} | before)
    found = {arm.name: arm.fingerprint(config, "voxels") for arm in arms_of(config, ("north",))}
    assert found == {
        "box-zero-shot": "63809f9c532454ff",
        "local-north": "4e42cabfa12dc9a1",
        "pooled": "4e42cabfa12dc9a1",
        "federated": "8aa74de781d8d1ad",
        "federated-private": "b4636721d38c4ea2",
    }


class TestFingerprint:
    """Trained again where the result would be another one, and only there."""

    @pytest.mark.parametrize("key", CHANGES)
    def test_what_a_change_trains_again(self, key):
        """All arms at once, so that every mismatch is reported."""
        value, expected = CHANGES[key]
        before, after = config_of(), config_of(**{key: value})
        assert before != after
        arms = [Arm(kind, kind, ()) for kind in KINDS]
        changed = {
            arm.kind for arm in arms if arm.fingerprint(before, "") != arm.fingerprint(after, "")
        }
        assert changed == expected

    def test_warm_started_private_arm_depends_on_the_start(self):
        """With a warm start, how that is trained matters to the private arm."""
        arm = Arm("federated-private", "federated-private", ())
        one = config_of(warm_start__phantoms=8)
        two = config_of(warm_start__phantoms=8, training__epochs=3)
        assert arm.fingerprint(one, "") != arm.fingerprint(two, "")

    def test_scaffold_has_one_precision(self):
        """What does not change how numbers travel trains nothing again."""
        arm = Arm("federated", "federated", ())
        one = config_of(federation__strategy="scaffold", federation__precision="float16")
        two = config_of(federation__strategy="scaffold", federation__precision="float32")
        assert arm.fingerprint(one, "") == arm.fingerprint(two, "")

    @pytest.mark.parametrize("kind", KINDS)
    def test_other_cases(self, kind):
        """Other voxels or another split: trained again."""
        arm = Arm(kind, kind, ())
        assert arm.fingerprint(config_of(), "a") != arm.fingerprint(config_of(), "b")

    @pytest.mark.parametrize(
        ("key", "value"), [("audit__nsd_tolerance", 1.0), ("training__box_jitter", 1)]
    )
    def test_scored_again(self, key, value):
        """Figures depend on the tolerance and on the boxes; also where nothing is trained."""
        arm = Arm("box-zero-shot", "box-zero-shot", ())
        before, after = config_of(), config_of(**{key: value})
        assert arm.fingerprint(before, "") == arm.fingerprint(after, "")
        assert arm.scoring_fingerprint(before, "", "") != arm.scoring_fingerprint(after, "", "")

    def test_corrected_attributes_are_scored_again(self):
        """A patient's corrected sex reaches the table without training anew."""
        arm = Arm("pooled", "pooled", ())
        first = arm.scoring_fingerprint(config_of(), "a", "one")
        assert first != arm.scoring_fingerprint(config_of(), "a", "two")

    @pytest.mark.parametrize("kind", KINDS)
    @pytest.mark.parametrize("key", ["audit__resamples", "audit__minimum_group"])
    def test_the_audit_alone(self, kind, key):
        """How the audit counts is no reason to score again."""
        arm = Arm(kind, kind, ())
        before, after = config_of(), config_of(**{key: 300})
        assert arm.scoring_fingerprint(before, "", "") == arm.scoring_fingerprint(after, "", "")


def prepare(tree, folder, **data):
    """Ingest and split a tree; return its run folder."""
    given = {} if tree is None else {"source": str(tree)}
    raw = {"name": "tiny", "data": given | data}
    run = RunFolder(folder)
    with progress_bar() as bar:
        prepare_cases(run, ExperimentConfig.model_validate(raw), bar)
    return run


class TestCases:
    """Which hospitals of a source take part."""

    def test_all_that_are_found(self, tiny_tree, tmp_path):
        """Without a list, everybody."""
        assert prepare(tiny_tree, tmp_path).split().hospitals == ("north", "south")

    def test_left_out(self, tiny_tree, tmp_path):
        """Who is left out with a reason has no store and no patient in the split."""
        run = prepare(tiny_tree, tmp_path, left_out={"south": "too few"})
        assert run.split().hospitals == ("north",)
        assert not run.hospital("south").path.exists()

    def test_not_mentioned(self, tiny_tree, tmp_path):
        """A hospital of the source that the config forgets is named."""
        with pytest.raises(ConfigError, match=r"does not mention: south\..*data.left_out"):
            prepare(tiny_tree, tmp_path, hospitals=["north"])
        assert list(tmp_path.iterdir()) == []

    def test_left_out_by_a_misspelt_name(self, tiny_tree, tmp_path):
        """Otherwise a typing error would let a hospital take part that should not."""
        with pytest.raises(ConfigError, match=r"left_out.*: sauth \(it has north, south\)"):
            prepare(tiny_tree, tmp_path, left_out={"sauth": "too few"})

    def test_one_patient(self, bids_tree, tmp_path):
        """A hospital with one patient cannot both train and test; the way out is named."""
        table = bids_tree / "participants.tsv"
        header, *rows = table.read_text().splitlines()
        site = header.split("\t").index("site")
        cells = [row.split("\t") for row in rows]
        lonely = next(row for row in cells if row[site] == "north")
        lonely[site] = "alone"
        table.write_text("\n".join([header, *("\t".join(row) for row in cells)]) + "\n")
        run = tmp_path / "run"
        with pytest.raises(DataError, match=r"Hospital alone has 1 patient.*data\.left_out"):
            prepare(bids_tree, run)
        assert not (run / "splits.json").exists()

    def test_stores_that_are_there(self, tiny_stores, tmp_path):
        """Stores that `evenhand ingest` made are linked, not copied; a moved one is linked anew."""
        paths = {name: store.path for name, store in tiny_stores.items()}
        moved = shutil.copytree(paths["north"], tmp_path / "moved")
        for north in (paths["north"], moved):
            paths["north"] = north
            run = prepare(None, tmp_path / "run", stores=paths)
            assert run.split().hospitals == ("north", "south")
            for name, path in paths.items():
                assert run.hospital(name).store().case_ids() == CaseStore(path).case_ids()
                assert (run.hospital(name).path / "store").resolve() == path.resolve()

    def test_a_store_that_does_not_fit(self, tiny_stores, tmp_path):
        """Another hospital's store, a missing sequence, a missing mask: named before any work."""
        north = tiny_stores["north"].path
        with pytest.raises(ConfigError, match="the store of north, not of south"):
            prepare(None, tmp_path / "a", stores={"south": north})
        with pytest.raises(DataError, match=r"3 case.* of hospital north have no sequence 'T2w'"):
            prepare(None, tmp_path / "b", stores={"north": north}, sequences=["T2w"])
        copy = CaseStore(shutil.copytree(north, tmp_path / "unmarked"))
        case = next(iter(copy))
        copy.add(
            case_id=case.case_id,
            patient=case.patient,
            affine=case.affine,
            images=copy.volumes(case).images,
            mask=None,
            source="test",
        )
        with pytest.raises(DataError, match=r"1 case.* of hospital north have no mask"):
            prepare(None, tmp_path / "c", stores={"north": copy.path})
        with pytest.raises(ValueError, match="exactly one of"):
            prepare(tmp_path, tmp_path / "d", stores={"north": north})

    def test_missing_source(self, tmp_path):
        """A path that is not there is named."""
        with pytest.raises(ConfigError, match=r"data\.source.*nowhere'.*--set data\.source=PATH"):
            prepare(tmp_path / "nowhere", tmp_path / "run")


class TestDigest:
    """What was ingested decides whether results can be kept."""

    def test_equal_for_equal_cases(self, tiny_tree, tmp_path):
        """Two ingests of one tree are alike, wherever they lie."""
        one, two = prepare(tiny_tree, tmp_path / "1"), prepare(tiny_tree, tmp_path / "2")
        assert one.digest() == two.digest()

    def test_corrected_attribute(self, bids_tree, tmp_path):
        """A correction in the table changes figures, not what is trained on."""
        before = prepare(bids_tree, tmp_path / "run").digest()
        table = bids_tree / "participants.tsv"
        lines = table.read_text().splitlines()
        age = lines[0].split("\t").index("age")
        cells = lines[1].split("\t")
        cells[age] = "33" if cells[age] != "33" else "34"
        table.write_text("\n".join([lines[0], "\t".join(cells), *lines[2:]]) + "\n")
        after = prepare(bids_tree, tmp_path / "run").digest()
        assert after.voxels == before.voxels
        assert after.patients != before.patients

    def test_other_split(self, tiny_tree, tmp_path):
        """Other patients for training: trained again."""
        one = prepare(tiny_tree, tmp_path / "1")
        two = prepare(tiny_tree, tmp_path / "2", test_fraction=0.6)
        assert one.split() != two.split()
        assert one.digest().voxels != two.digest().voxels
