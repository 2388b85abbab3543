"""Going back to an older version, and dropping the oldest."""

import pytest
from model_family import NAMES, models, publish_family
from repository_state import described, parsed_config, served, tree, tune_version

from salf_contract import tuning_file
from salf_export import OptionError, RepositoryError, drop_old_versions, roll_back, verify_repository
from salf_export.publishing import publish
from salf_export.repository import read_model, versions_in


def test_a_rollback_serves_the_older_version_and_the_next_publish_the_newest(repo):
    done = roll_back(repo, "boats", to=1)
    assert done.models == NAMES
    assert done.before == dict.fromkeys(NAMES, 2)
    assert served(repo) == {name: [1] for name in NAMES}
    assert described(repo, "boats") == {1, 2}
    assert verify_repository(repo).findings == ()
    publish_family(repo, 3)
    assert served(repo) == {name: [3] for name in NAMES}


def test_a_rollback_brings_the_versions_own_settings_back(repo):
    slower = [
        type(model)(model.name, model.config.replace("max_batch_size: 8", "max_batch_size: 2"), model.files)
        for model in models(3)
    ]
    publish(repo, 3, slower)
    assert parsed_config(repo / "boats").max_batch_size == 2
    roll_back(repo, "boats", to=2)
    assert parsed_config(repo / "boats").max_batch_size == 8


def test_a_rollback_uses_what_was_tuned_for_that_version(repo):
    tune_version(repo, 1)
    roll_back(repo, "boats", to=1)
    config = parsed_config(repo / "boats")
    assert (config.max_batch_size, config.instance_group[0].count) == (4, 2)
    assert config.dynamic_batching.max_queue_delay_microseconds == 700
    assert config.parameters["intra_op_thread_count"].string_value == "3"
    assert parsed_config(repo / "boats_all_maps").max_batch_size == 8
    assert verify_repository(repo).findings == ()
    (repo / "boats" / tuning_file(1)).write_text("{}")
    with pytest.raises(RepositoryError, match="tune again"):
        roll_back(repo, "boats", to=1)


def test_a_model_without_the_version_keeps_its_own_and_is_named(repo):
    publish(repo, 3, models(3, names=("boats_what_if", *NAMES)))
    done = roll_back(repo, "boats", to=1)
    assert done.without == ("boats_what_if",)
    assert read_model(repo / "boats_what_if").served == 3
    assert verify_repository(repo).findings == ()


def test_a_rollback_to_nothing_or_to_damage_is_refused(repo):
    before = tree(repo)
    with pytest.raises(RepositoryError, match=r"has no version 9 .* it has: 1, 2"):
        roll_back(repo, "boats", to=9)
    with pytest.raises(RepositoryError, match=r"no model 'ships' .* it has: boats"):
        roll_back(repo, "ships", to=1)
    assert tree(repo) == before
    (repo / "boats_all_maps/1/model.onnx").write_bytes(b"x")
    before = tree(repo)
    with pytest.raises(RepositoryError, match="boats_all_maps is damaged"):
        roll_back(repo, "boats", to=1)
    assert tree(repo) == before


def test_old_versions_go_and_the_served_one_stays(repo):
    for version in (3, 4, 5):
        publish_family(repo, version)
    roll_back(repo, "boats", to=2)
    assert drop_old_versions(repo, "boats", keep=2) == (1, 3)
    assert versions_in(repo / "boats") == (2, 4, 5)
    assert described(repo, "boats") == {2, 4, 5}
    assert served(repo) == {name: [2] for name in NAMES}
    assert verify_repository(repo).findings == ()
    assert drop_old_versions(repo, "boats", keep=2) == ()
    with pytest.raises(OptionError, match="keep is 0"):
        drop_old_versions(repo, "boats", keep=0)
