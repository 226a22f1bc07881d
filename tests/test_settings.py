"""Settings: where they come from, which source wins, and how a bad one is refused."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from cdc_bridge import settings as s
from cdc_bridge.access.authenticator import StaticToken
from cdc_bridge.access.rules import Rule
from cdc_bridge.conninfo import mask, server
from cdc_bridge.model.errors import SettingsError
from cdc_bridge.model.subscription import EventKind

DOCS = Path(__file__).parent.parent / "docs" / "settings.md"

# One acceptable value for each setting that is not its default, as a flag or a variable has it.
SAMPLES = {
    "dsn": "postgresql://somebody@db.example/shop",
    "schema": "changes",
    "collections": '{"sales.orders": "orders"}',
    "relations": '{"messages.author": "posts"}',
    "host": "::1",
    "allowed_origins": "https://a.example, https://b.example",
    "insecure_public": "true",
    "insecure_bind": "true",
    "behind_proxy": "true",
    "auth_mode": "strict",
    "jwt_secret": "a secret of some thirty-two bytes",
    "jwt_jwks_url": "https://issuer.example/keys",
    "roles": "reader, writer",
    "static_tokens": '[{"sha256": "' + "0f" * 32 + '", "role": "reader", "claims": {"sub": "x"}}]',
    "rules": '[{"role": "reader", "collection": "notes", "fields": ["id"], "filter": {"id": {"_gt": 1.50}}}]',
    "compression": "true",
    "log_format": "json",
    "log_level": "debug",
    "heartbeat_interval_s": "3",
    "limit_default": "7",
    "filter_depth_max": "7",
    "notify": "off",
    "inspector": "off",
    "retention_bytes": "7654321",
    "trace_ratio": "0.25",
}


def sample(name: str) -> str:
    return SAMPLES.get(name, "4321")


@pytest.fixture(autouse=True)
def nothing_set(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """An empty working directory and no variable of ours."""
    import os

    for name in list(os.environ):
        if name.startswith(("CDC_BRIDGE_", "PG")):
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)


def write(text: str, name: str = "cdc-bridge.toml") -> Path:
    path = Path(name)
    path.write_text(text, encoding="utf-8")
    return path


def value(settings: s.Settings, name: str) -> object:
    return settings.conninfo if name == "dsn" else getattr(settings, "schema_name" if name == "schema" else name)


def default(name: str) -> object:
    return value(s.load({}), name)


@pytest.mark.parametrize("name", s.FIELDS)
def test_every_setting_is_reachable_by_flag_environment_and_file(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    by_flag = value(s.load({name: sample(name)}), name)
    assert by_flag != default(name)

    monkeypatch.setenv(f"CDC_BRIDGE_{name.upper()}", sample(name))
    assert value(s.load({}), name) == by_flag
    monkeypatch.delenv(f"CDC_BRIDGE_{name.upper()}")

    write(f"{name} = '''{sample(name)}'''")
    assert value(s.load({}), name) == by_flag


@pytest.mark.parametrize("name", s.FIELDS)
def test_every_setting_has_its_heading_in_the_docs(name: str) -> None:
    section = DOCS.read_text(encoding="utf-8").partition(f"\n### `{name}`\n")[2].partition("\n#")[0]
    assert (s.FIELDS[name].description or "nothing") in section
    assert "Default: " in section


def test_docs_describe_no_setting_that_is_not_there() -> None:
    assert set(re.findall(r"^### `(.+)`$", DOCS.read_text(encoding="utf-8"), re.MULTILINE)) == set(s.FIELDS)


def test_flags_win_over_environment_over_file_over_defaults(monkeypatch: pytest.MonkeyPatch) -> None:
    assert s.load({}).port == 8765
    write("port = 1001")
    assert s.load({}).port == 1001
    monkeypatch.setenv("CDC_BRIDGE_PORT", "1002")
    assert s.load({}).port == 1002
    assert s.load({"port": "1003"}).port == 1003


def test_flag_that_was_not_given_covers_nothing() -> None:
    write("port = 1001")
    assert s.load({"port": None}).port == 1001


def test_named_file_is_read_instead_of_the_one_in_the_working_directory() -> None:
    write("port = 1001")
    assert s.load({}, write("host = 'localhost'", "other.toml")).port == 8765


def test_named_file_must_exist() -> None:
    with pytest.raises(SettingsError, match=r"nosuch\.toml"):
        s.load({}, Path("nosuch.toml"))


def test_collections_are_a_table_in_the_file() -> None:
    write('[collections]\n"sales.orders" = "orders"\n')
    assert s.load({}).collections == {"sales.orders": "orders"}


def test_origins_are_json_too() -> None:
    assert s.load({"allowed_origins": '["https://a.example"]'}).allowed_origins == ["https://a.example"]


@pytest.mark.parametrize(
    ("name", "bad", "allowed"),
    [
        ("port", "x", "a whole number from 0 to 65535"),
        ("port", "65536", "a whole number from 0 to 65535"),
        ("insecure_public", "maybe", "true or false"),
        ("log_format", "xml", "human or json"),
        ("log_level", "loud", "debug, info, warning or error"),
        ("notify", "on", "auto or off"),
        ("auth_mode", "open", "public, handshake or strict"),
        ("auth_timeout_s", "0", "a number above 0"),
        ("jwt_secret", "sekret", "expected 32 or more"),
        ("jwt_leeway_s", "-1", "a number of 0 or more"),
        ("jwt_jwks_url", "file:///etc/passwd", "an http or https URL"),
        ("roles", "[1]", "a list of roles"),
        ("static_tokens", "[{}]", "a list of tables"),
        ("static_tokens", '[{"sha256": "sekret"}]', "64 hex digits"),
        ("static_tokens", '[{"sha256": "%s", "token": "sekret"}]' % ("0" * 64), "a list of tables"),
        ("static_tokens", '[{"sha256": "%s", "claims": {"role": "x"}}]' % ("0" * 64), "another role"),
        ("poll_interval_s", "0", "a number above 0"),
        ("retention_bytes", "1000", "a whole number of 1048576 or more"),
        ("ping_interval_s", "0", "a number above 0"),
        ("ping_interval_s", "inf", "a number above 0"),
        ("ping_interval_s", "nan", "a number above 0"),
        ("limit_max", "-1", "a whole number of 0 or more"),
        ("collections", "{", "a table"),
        ("collections", '{"a": "x", "b": "x"}', "each name once"),
        ("relations", "[]", "a table that names relations"),
        ("allowed_origins", "[1", "a list of origins"),
        ("schema", "a" * 64, "a name of 1 to 63 characters"),
        ("dsn", "no conninfo", "a connection string"),
    ],
)
def test_bad_value_is_refused_under_the_name_that_was_written(
    name: str, bad: str, allowed: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In one line that says what is allowed, wherever it stands and whoever covers it."""
    flag = "--schema-name" if name == "schema" else "--" + name.replace("_", "-")
    with pytest.raises(SettingsError) as by_flag:
        s.load({name: bad})
    write(f"{name} = '''{bad}'''")
    with pytest.raises(SettingsError) as in_file:
        s.load({name: sample(name)})
    write("")
    monkeypatch.setenv(s.variable(name), bad)
    with pytest.raises(SettingsError) as in_environment:
        s.load({name: sample(name)})
    spelled = [(by_flag, flag), (in_file, f"{name} in cdc-bridge.toml"), (in_environment, s.variable(name))]
    for error, spelling in spelled:
        assert str(error.value).startswith(f"{spelling}: ")
        assert allowed in str(error.value)
        assert "\n" not in str(error.value)


def test_unknown_key_in_the_file_is_refused_with_the_nearest_name() -> None:
    write("prot = 1")
    with pytest.raises(SettingsError, match=r"^prot in cdc-bridge.toml is not a setting; did you mean port\?$"):
        s.load({})


def test_key_in_the_wrong_case_is_refused() -> None:
    write("Port = 1")
    with pytest.raises(SettingsError, match=r"^Port in cdc-bridge.toml is not a setting; did you mean port\?$"):
        s.load({})


def test_file_that_is_no_toml_is_refused_by_name() -> None:
    write("port = = 1")
    with pytest.raises(SettingsError, match=r"cdc-bridge\.toml is not valid TOML"):
        s.load({})


def test_unknown_variable_is_told_with_the_nearest_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CDC_BRIDGE_PROT", "1")
    monkeypatch.setenv("CDC_BRIDGE_TEST_DSN", "1")
    monkeypatch.setenv("CDC_BRIDGE_TRACEBACK", "1")
    monkeypatch.setenv("CDC_BRIDGE_HOST", "127.0.0.1")
    assert s.unknown_variables() == ["CDC_BRIDGE_PROT is not a setting and is ignored; did you mean CDC_BRIDGE_PORT?"]
    assert s.load({}).port == 8765


def test_address_that_kubernetes_injects_as_port_is_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CDC_BRIDGE_PORT", "tcp://10.96.0.1:8765")
    assert s.load({}).port == 8765


def test_empty_variable_counts_as_not_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CDC_BRIDGE_PORT", "")
    assert s.load({}).port == 8765


def test_settings_that_contradict_each_other_are_refused() -> None:
    with pytest.raises(SettingsError, match="limit_default"):
        s.load({"limit_default": "20", "limit_max": "10"})
    with pytest.raises(SettingsError, match="heartbeat_timeout_s"):
        s.load({"heartbeat_interval_s": "6"})


def test_static_tokens_are_tables_in_the_file() -> None:
    write(f"""
        [[static_tokens]]
        sha256 = "{"0f" * 32}"
        role = "reporting"
        claims = {{ sub = "nightly", groups = ["a"] }}
        [[static_tokens]]
        sha256 = "{"1e" * 32}"
    """)
    assert s.load({}).static_tokens == [
        StaticToken("0f" * 32, "reporting", {"sub": "nightly", "groups": ["a"]}),
        StaticToken("1e" * 32),
    ]


def test_claims_of_a_static_token_are_what_json_can_say() -> None:
    write(f'[[static_tokens]]\nsha256 = "{"0f" * 32}"\nclaims = {{ since = 2026-01-01 }}')
    with pytest.raises(SettingsError, match="what JSON can say"):
        s.load({})


def test_roles_are_a_list_in_the_file_and_json_too() -> None:
    write('roles = ["a, b", "c"]')
    assert s.load({}).roles == ["a, b", "c"]
    assert s.load({"roles": '["a, b"]'}).roles == ["a, b"]


@pytest.mark.parametrize("name", ["jwt_secret", "jwt_jwks_url", "static_tokens"])
def test_what_is_refused_of_a_secret_is_not_shown(name: str) -> None:
    for bad in ("sekret", '["sekret"]', "sekret://x"):
        with pytest.raises(SettingsError) as refused:
            s.load({name: bad})
        assert "sekret" not in str(refused.value)


def test_settings_do_not_show_the_secret() -> None:
    settings = s.load({"jwt_secret": "sekret" * 8})
    assert settings.jwt_secret.get_secret_value() == "sekret" * 8
    assert "sekret" not in f"{settings!r} {settings}"


@pytest.mark.parametrize("proof", ["jwt_secret", "jwt_public_key", "jwt_jwks_url", "static_tokens"])
def test_mode_is_handshake_once_somebody_can_prove_who_they_are(proof: str) -> None:
    def mode(**given: str) -> str:
        return s.load(given).mode

    assert mode() == mode(anon_role="anon", roles="a") == "public"
    assert mode(**{proof: sample(proof)}) == "handshake"
    assert mode(**{proof: sample(proof), "auth_mode": "Strict"}) == "strict"


def test_settings_do_not_show_the_password() -> None:
    settings = s.load({"dsn": "postgresql://u:sekret@db.example/shop"})
    assert "sekret" not in f"{settings!r} {settings}"
    assert settings.conninfo == "postgresql://u:sekret@db.example/shop"


@pytest.mark.parametrize(
    "text",
    [
        "cannot use postgresql://u:sekret@db/shop here",
        "postgres://u:se@kret@db/shop",
        "host=db password=sekret user=u",
        "host=db password = 'se kret' user=u",
        r"password='se\'kret' user=u",
        "postgresql://db/shop?user=u&password=sekret&x=1",
        "sslpassword=sekret",
        "PASSWORD=sekret",
        "GET /websocket?x=1&access_token=sekret&y=2 HTTP/1.1",
    ],
)
def test_password_is_masked_in_any_text(text: str) -> None:
    assert "kret" not in mask(text)
    assert "****" in mask(text)


@pytest.mark.parametrize(
    ("dsn", "text"),
    [
        ("postgresql://u:se%40kret@db/shop", 'role "u" with se@kret and se%40kret'),
        ("host=db password='se kret'", "the words se kret"),
    ],
)
def test_known_password_is_masked_wherever_it_stands(dsn: str, text: str) -> None:
    assert "kret" not in mask(text, dsn)


@pytest.mark.parametrize(
    "dsn",
    [
        "postgresql://u:se@kret@db/shop",
        "postgresql://u:sek/ret@db/shop",
        "postgresql://u:12/kret@db/shop",
        "postgresql://u:se%kret@db/shop",
        "postgresql://u:se?kret=1/@db/shop",
        "host=db password=se kret=1",
        "host=kret@db",
        "host=db port=kret",
    ],
)
def test_faulty_dsn_is_refused_and_no_part_of_it_is_shown(dsn: str) -> None:
    with pytest.raises(SettingsError) as refused:
        s.load({"dsn": dsn})
    assert "kret" not in str(refused.value)
    assert "ret@" not in str(refused.value)
    assert "kret" not in server(dsn)


def test_password_of_a_faulty_dsn_is_masked_in_what_libpq_says_of_it() -> None:
    text = 'failed to resolve host "kret@db": unknown'
    assert "kret" not in mask(text, "postgresql://u:se@kret@db/shop")
    assert mask('invalid integer value "sek" for "port"', "postgresql://u:sek/ret@db/shop").count("sek") == 0


@pytest.mark.parametrize(
    ("dsn", "reason"),
    [
        ("postgresql://u:p@ss@db/shop", "in a URL a password with @ : / or % has to be percent-encoded (@ is %40)"),
        ("postgresql://u@db:543x2/shop", "its port is no number from 1 to 65535"),
        ("host=db port=65536", "its port is no number from 1 to 65535"),
        ("postgresql://u@db/shop?schema=public", 'libpq knows no option "schema"; expected a connection string'),
        ("host=db password=x sslmod=require", 'libpq knows no option "sslmod"; did you mean sslmode?'),
    ],
)
def test_fault_of_a_dsn_is_named(dsn: str, reason: str) -> None:
    with pytest.raises(SettingsError, match=re.escape(f"--dsn: {reason}")):
        s.load({"dsn": dsn})


@pytest.mark.parametrize(
    "dsn", ["postgresql://a:1,b:2/db", "host=a,b port=5432,", "postgresql://%2Frun/db", "postgresql://u:p%40@[::1]:5/d"]
)
def test_unusual_dsn_is_accepted(dsn: str) -> None:
    assert s.load({"dsn": dsn}).conninfo == dsn


@pytest.mark.parametrize(
    "origin", ["*", "app.example.com", "https://a.example/app", "https://a.example?x", "null", "https://"]
)
def test_origin_that_can_never_match_is_refused(origin: str) -> None:
    with pytest.raises(SettingsError, match=r"--allowed-origins: (\* is refused|.* can never match)"):
        s.load({"allowed_origins": f"https://b.example,{origin}"})


def test_origins_are_kept_as_browsers_send_them() -> None:
    given = "https://A.example/, http://b.example:80, https://c.example:8443, http://[::1]:3000"
    kept = ["https://a.example", "http://b.example", "https://c.example:8443", "http://[::1]:3000"]
    assert s.load({"allowed_origins": given}).allowed_origins == kept


def test_text_without_a_password_stays_as_it_is() -> None:
    for text in ("ws://127.0.0.1:8765/websocket", "postgresql://u@db:5432/shop", "listening, all is well"):
        assert mask(text) == text


RULE = {"role": "reader", "collection": "notes"}


def rules(*tables: object) -> list[Rule]:
    return s.load({"rules": json.dumps(tables)}).rules


def test_rules_are_tables_in_the_file() -> None:
    write("""
        [[rules]]
        role = "reader"
        collection = "notes"
        fields = ["id", "text"]
        filter = { owner = { _eq = "$CURRENT_USER" } }
        events = ["update", "delete"]

        [[rules]]
        role = "reader"
        collection = "rooms"
        """)
    owned = '{"owner":{"_eq":"$CURRENT_USER"}}'
    events = frozenset({EventKind.UPDATE, EventKind.DELETE})
    assert s.load({}).rules == [
        Rule("reader", "notes", frozenset({"id", "text"}), owned, events),
        Rule("reader", "rooms"),
    ]


def test_filter_of_a_rule_is_json_text_too_and_keeps_its_digits() -> None:
    assert rules(RULE | {"filter": ' {"price": {"_gt": 1.50}} '}) == [
        Rule("reader", "notes", filter='{"price":{"_gt":1.50}}')
    ]


@pytest.mark.parametrize("fields", ["*", ["*"], ["id", "*"]])
def test_fields_of_a_rule_are_all_with_a_star(fields: object) -> None:
    assert rules(RULE | {"fields": fields}) == [Rule("reader", "notes")]


@pytest.mark.parametrize("filter_", [{}, "", "{}"])
def test_empty_filter_of_a_rule_lets_every_row_through(filter_: object) -> None:
    assert rules(RULE | {"filter": filter_}) == [Rule("reader", "notes")]


def test_rule_without_events_is_for_reading() -> None:
    assert rules(RULE | {"events": []}) == [Rule("reader", "notes", events=frozenset())]


@pytest.mark.parametrize(
    ("rule", "reason"),
    [
        ({"filtre": {}}, "rule 1 (reader, notes) has 'filtre', which rules do not have; did you mean filter?"),
        ({"role": ""}, "rule 1 (notes): role has to be a name"),
        ({"role": None}, "role has to be a name"),
        ({"collection": " "}, "collection has to be a name"),
        ({"collection": 5}, "collection has to be a name"),
        ({"fields": []}, "fields have to be"),
        ({"fields": "id"}, "fields have to be"),
        ({"fields": ["id", ""]}, "each of the fields has to be a name"),
        ({"filter": "{"}, "its filter is no JSON"),
        ({"filter": []}, "a filter is a table"),
        ({"filter": "[]"}, "a filter is a table"),
        ({"filter": 7}, "a filter is a table"),
        ({"events": "create"}, "events have to be a list of create, update, delete"),
        ({"events": ["init"]}, "events have to be a list of create, update, delete"),
    ],
)
def test_rule_that_makes_no_sense_is_refused(rule: dict[str, object], reason: str) -> None:
    with pytest.raises(SettingsError, match=f"^--rules: .*{re.escape(reason)}"):
        rules(RULE | rule)


def test_date_in_the_filter_of_a_rule_has_to_be_a_text() -> None:
    write('[[rules]]\nrole = "reader"\ncollection = "notes"\nfilter = { day = { _eq = 2026-11-24 } }\n')
    with pytest.raises(SettingsError, match=r"^rules in cdc-bridge\.toml: .*write dates as texts"):
        s.load({})


def test_role_has_one_rule_for_a_collection() -> None:
    with pytest.raises(SettingsError, match='--rules: the role "reader" has two rules for "notes"'):
        rules(RULE, RULE | {"fields": ["id"]})
    assert len(rules(RULE, {"role": "writer", "collection": "notes"})) == 2


@pytest.mark.parametrize("bad", ["{}", "7", '"x"', "[7]", '[{"role": "reader"}]'])
def test_rules_that_are_no_list_of_tables_are_refused(bad: str) -> None:
    with pytest.raises(SettingsError, match=r"^--rules: "):
        s.load({"rules": bad})


def test_settings_that_differ_are_named() -> None:
    before, now = s.load({"dsn": "host=a"}), s.load({"dsn": "host=b", "rules": json.dumps([RULE])})
    assert s.differing(before, now) == {"dsn", "rules"}
    assert s.differing(now, now) == set()
