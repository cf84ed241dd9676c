//! `kind = "salesforce"`.

use super::mistakes::mistake;
use super::{CANARY, SinkKind, parse, sink};
use std::time::Duration;

/// A sink of this kind, of these keys.
fn salesforce(keys: &str) -> String {
    sink(&format!("kind = \"salesforce\"\nurl = \"https://acme.my.salesforce.com/\"\ntoken = \"t\"\n{keys}"))
}

#[test]
fn what_is_not_said_has_its_default() {
    let config = parse(&salesforce("")).unwrap();
    let SinkKind::Salesforce(sink) = &config.sinks[0].kind else { panic!("{config:?}") };
    assert_eq!((sink.version.as_str(), sink.batch_max, sink.api_usage_max), ("62.0", 200, 0.95));
    assert_eq!(sink.limit_rest, Duration::from_secs(300));
    assert_eq!((sink.scheme.object.as_str(), sink.scheme.external_id_field.as_str()), ("Training_Status__c", "External_Id__c"));
    assert!(sink.scheme.external_id.is_none() && sink.scheme.fields.is_none());
}

#[test]
fn a_mistake_is_told_at_its_place_and_repeats_no_value() {
    for (marked, says) in [
        ("‸[[sink]]\nname = \"crm\"\nkind = \"salesforce\"\ntoken = \"hunter2\"".to_owned(), "`url` of this sink is missing"),
        ("‸[[sink]]\nname = \"crm\"\nkind = \"salesforce\"\nurl = \"https://a.example\"".to_owned(), "`token` of this sink is missing"),
        (sink("kind = \"salesforce\"\nurl = ‸\"https://a.example/hunter2\""), "must end with its host"),
        (sink("kind = \"salesforce\"\nurl = ‸\"https://a.example?hunter2\""), "must end with its host"),
        (salesforce("version = ‸\"v62.0\""), "a version of the REST API from \"46.0\" on"),
        (salesforce("version = ‸\"45.0\""), "from \"46.0\" on"),
        (salesforce("version = ‸62.0"), "must be a text in quotes"),
        (salesforce("object = ‸\"hunter2/x\""), "`object` must be an API name"),
        (salesforce("external_id_field = ‸\"\""), "`external_id_field` must not be empty"),
        (salesforce("external_id = ‸\"event.data.userId\""), "`external_id` needs `fields`"),
        (salesforce("external_id = ‸\"event.data.\"\nfields = { A__c = \"1\" }"), "`external_id` must be an expression"),
        (salesforce("fields = ‸\"hunter2\""), "`fields` must be a table"),
        (salesforce("fields = ‸{}"), "`fields` must be a table"),
        (salesforce("fields = { A__c = ‸\"hunter2 +\" }"), "each text of `fields` must be an expression"),
        (salesforce("fields = { ‸hunter2-x = \"1\" }"), "each name of `fields` must be an API name"),
        (salesforce("fields = { ‸external_id__C = \"1\" }"), "another than `external_id_field`"),
        (salesforce("fields = { ‸Id = \"1\" }"), "none that Salesforce or Sluice sets"),
        (salesforce("batch = ‸201"), "from 1 to 200"),
        (salesforce("api_usage_max = ‸95"), "above 0 and at most 1"),
        (salesforce("limit_rest = ‸\"2h\""), "`limit_rest` must be a duration"),
        (sink("kind = \"null\"\nobject = ‸\"hunter2\""), "`object` is a key of kind = \"salesforce\" alone"),
    ] {
        let error = mistake(&marked);
        assert!(error.contains(says) && !error.contains(CANARY), "{marked}\n{error}");
    }
}
