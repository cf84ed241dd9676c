//! What is wrong with a config is said where it stands.

use sluice::config::Config;

#[test]
fn a_mistake_in_the_config_is_told_at_its_place_and_repeats_no_value() {
    let url = "url = \"https://idp.example.com/scim/v2\"";
    let oauth = "[sink.oauth]\ntoken_url = \"https://h/\"\nclient_id = \"x\"\nclient_secret = \"hunter2\"";
    for (marked, says) in [
        ("‸[[sink]]\nname = \"a\"\nkind = \"scim\"\ntoken = \"hunter2\"".to_owned(), "`url` of this sink is missing"),
        (sink("token = \"hunter2\"\nurl = ‸\"https://h/hunter2?x=1\""), "must not have a `?…` at its end"),
        (sink(url).replacen("[[sink]]", "‸[[sink]]", 1), "`token` of this sink is missing"),
        (sink(&format!("{url}\ntoken = ‸\"hunter2\"\n{oauth}")), "beside [sink.oauth]"),
        (sink(&format!("{url}\ntoken = \"x\"\non_deprovision = ‸\"hunter2\"")), "must be \"deactivate\" or \"delete\""),
        (sink(&format!("{url}\ntoken = \"x\"\ngroup = ‸\"\"")), "`group` must not be empty"),
        (sink(&format!("{url}\ntoken = \"x\"\ngroup = ‸\"id:\"")), "an id after `id:`"),
        (sink(&format!("{url}\ntoken = \"x\"\npath = ‸\"hunter2\"")), "alone: remove it"),
        (
            sink(&format!("{url}\ntoken = \"x\"\nheaders = {{ authorization = \"hunter2\" }}")).replacen("[[sink]]", "‸[[sink]]", 1),
            "write token =",
        ),
        ("[[sink]]\nname = \"a\"\nkind = \"null\"\ngroup = ‸\"hunter2\"".to_owned(), "`group` is a key of kind = \"scim\" alone"),
    ] {
        let (before, after) = marked.split_once('‸').unwrap();
        let error = Config::parse(&format!("{before}{after}"), "sluice.toml", &|_| None).map(drop).expect_err(&marked).to_string();
        let line = before.matches('\n').count() + 1;
        let column = before.rsplit('\n').next().unwrap().chars().count() + 1;
        assert!(error.starts_with(&format!("sluice.toml:{line}:{column}: ")) && error.contains(says), "{marked}\n{error}");
        assert!(!error.contains("hunter2"), "{error}");
    }
    assert!(Config::parse(&sink(&format!("{url}\n{oauth}")), "sluice.toml", &|_| None).is_ok());
}

fn sink(keys: &str) -> String {
    format!("[[sink]]\nname = \"a\"\nkind = \"scim\"\n{keys}")
}
