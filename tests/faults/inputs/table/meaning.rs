//! Requests that are HTTP and for a source: signed or not, within the cap or not, processable or not, new or not.

use super::{BODY_MAX, ID, Request, Row, SIGNATURE, TIMESTAMP, Table, body, chunk, good, seconds, sign};
use crate::client::SECRET;

pub fn fill(table: &mut Table) {
    signatures(table);
    timestamps(table);
    sizes(table);
    payloads(table);
    companies_and_secrets(table);
    ids(table);
    repeats(table);
}

fn signatures(table: &mut Table) {
    let x = || good("x");
    let (signature, timestamp) = (sign(SECRET, &seconds(0), &body("x")), seconds(0));
    table.refused(401, "no signature", x().without(SIGNATURE).bytes());
    table.refused(401, "no timestamp", x().without(TIMESTAMP).bytes());
    table.refused(401, "neither", x().without(SIGNATURE).without(TIMESTAMP).bytes());
    table.refused(401, "an empty signature", x().with(SIGNATURE, "").bytes());
    table.refused(401, "a blank signature", x().with(SIGNATURE, " \t ").bytes());
    table.refused(401, "an empty timestamp", x().with(TIMESTAMP, "").bytes());
    table.refused(401, "the same signature twice", x().and(SIGNATURE, &signature).bytes());
    table.refused(401, "the same timestamp twice", x().and(TIMESTAMP, &timestamp).bytes());
    table.refused(401, "a second signature that is empty", x().and(SIGNATURE, "").bytes());
    table.refused(401, "a body over the cap without a signature", x().without(SIGNATURE).with("content-length", "100000").head());

    let other_bytes: String = signature.chars().rev().collect();
    for (name, bad) in [
        ("63 characters", &signature.as_bytes()[1..]),
        ("65 characters", format!("{signature}0").as_bytes()),
        ("one character", b"a"),
        ("10,000 characters", "a".repeat(10_000).as_bytes()),
        ("not hex", "z".repeat(64).as_bytes()),
        ("base64", b"YWJjZGVmZ2hpamtsbW5vcHFyc3R1dnd4eXphYmNkZWY="),
        ("sha256= in front", format!("sha256={signature}").as_bytes()),
        ("0x in front", format!("0x{signature}").as_bytes()),
        ("wrong bytes", other_bytes.as_bytes()),
        ("zeros", "0".repeat(64).as_bytes()),
        ("twice in one header", format!("{signature},{signature}").as_bytes()),
        ("in quotes", format!("\"{signature}\"").as_bytes()),
        ("a blank within", format!("{} {}", &signature[..32], &signature[32..]).as_bytes()),
        ("non-ASCII bytes", &[0xff; 64]),
        ("non-ASCII digits", "\u{ff10}".repeat(64).as_bytes()),
    ] {
        table.refused(403, &format!("a signature of {name}"), x().with(SIGNATURE, bad).bytes());
    }
    table.refused(403, "the signature of another body", Request { body: body("y"), ..x() }.bytes());
    table.refused(403, "the signature of another timestamp", x().with(TIMESTAMP, seconds(1)).bytes());
    table.refused(403, "the signature of the body alone", x().with(SIGNATURE, sign(SECRET, "", &body("x"))).bytes());
    // The colon between timestamp and body is part of what is signed: digits cannot wander from one to the other.
    let wandered = Request { body: [b"0:".as_slice(), &body("x")].concat(), ..x() };
    let length = wandered.body.len().to_string();
    table.refused(403, "a digit that wandered", wandered.with("content-length", length).with(TIMESTAMP, &timestamp[..9]).bytes());
    table.refused(403, "an empty secret's signature", x().with(SIGNATURE, sign("", &timestamp, &body("x"))).bytes());

    let of = |id: &str| sign(SECRET, &seconds(0), &body(id));
    table.stored("upper-case hex", good("capitals").with(SIGNATURE, of("capitals").to_uppercase()));
    let mixed = of("mixed").char_indices().map(|(n, c)| if n % 2 == 0 { c.to_ascii_uppercase() } else { c }).collect::<String>();
    table.stored("mixed case", good("mixed").with(SIGNATURE, mixed));
    table.stored("blanks around the signature", good("blanks").with(SIGNATURE, format!("\t  {} \t", of("blanks"))));
    table.stored("blanks around the timestamp", good("blanks-2").with(TIMESTAMP, format!("  {}\t", seconds(0))));
}

fn timestamps(table: &mut Table) {
    let now = seconds(0);
    let (long, longer) = ("1".repeat(19), "1".repeat(10_000));
    let inner = format!("{} {}", &now[..5], &now[5..]);
    for bad in
        ["-1", "+1", "1.0", "1e9", "0x65000000", &inner, "1700000000,1700000000", "\u{661}", "\u{ff11}", "now", "NaN", &long, &longer]
    {
        // Signed as it is: it must be refused all the same.
        let name = format!("timestamp {}", bad.chars().take(25).collect::<String>());
        table.refused(403, &name, Request::signed("x", bad, &body("x")).bytes());
    }
    let not_text = good("x").with(TIMESTAMP, [b'1', 0xff]);
    table.refused(403, "a timestamp that is not text", not_text.bytes());
    for (id, timestamp) in [
        ("milliseconds", format!("{now}123")),
        ("zeros", format!("000{now}")),
        ("7 h 20 min", seconds(7 * 3600 + 1200)),
        ("almost 26 h", seconds(26 * 3600 - 60)),
        ("4 min ahead", seconds(-240)),
    ] {
        table.stored(id, Request::signed(id, &timestamp, &body(id)));
    }
    for (id, timestamp, reason) in [
        ("26 h", seconds(26 * 3600 + 60), "older"),
        ("30 days", seconds(30 * 86_400), "older"),
        ("0", "0".into(), "older"),
        ("10 min ahead", seconds(-600), "ahead"),
        ("18 nines", "9".repeat(18), "ahead"),
    ] {
        table.held(reason, id, Request::signed(id, &timestamp, &body(id)));
    }
}

fn sizes(table: &mut Table) {
    let of = |id: &str, length: usize| {
        let mut body = body(id);
        body.resize(length, b' ');
        Request::signed(id, &seconds(0), &body)
    };
    table.stored("exactly the cap", of("cap", BODY_MAX));
    let chunked = of("cap-chunks", BODY_MAX);
    let sent = chunk(&chunked.body);
    table.stored("exactly the cap, in chunks", chunked.chunked(sent));
    table.refused(413, "one more than the cap", of("x", BODY_MAX + 1).bytes()).closes = true;
    let chunked = of("x", BODY_MAX + 1);
    let sent = chunk(&chunked.body);
    table.refused(413, "one more than the cap, in chunks", chunked.chunked(sent).bytes()).closes = true;
    table.refused(413, "10 MB", of("x", 10_000_000).bytes()).closes = true;
    let endless = of("x", 10_000_000);
    let sent = chunk(&endless.body);
    table.refused(413, "10 MB in chunks", endless.chunked(sent).bytes()).closes = true;
    table.refused(413, "a length of 2^63", good("x").with("content-length", "9223372036854775808").bytes()).closes = true;
    let patient = of("x", BODY_MAX + 1).and("expect", "100-continue");
    table.refused(413, "over the cap, asking before sending", patient.head()).closes = true;
}

fn payloads(table: &mut Table) {
    let deep = |levels: usize| format!(r#"{{"event":"deep","data":{}{}}}"#, "[".repeat(levels), "]".repeat(levels));
    let long = |characters: usize| format!(r#"{{"event":"{}"}}"#, "\u{e9}".repeat(characters));
    let (too_deep, deep_enough) = (deep(200), deep(100));
    let (too_long, long_enough) = (long(201), long(200));
    let far_too_deep = "[".repeat(60_000);
    let (many_keys, long_user) = (
        format!(r#"{{"event":"keys","data":{{{}"z":0}}}}"#, (0..5000).map(|n| format!("\"{n}\":0,")).collect::<String>()),
        format!(r#"{{"event":"user","data":{{"userId":"{}"}}}}"#, "u".repeat(201)),
    );
    let held: [(&str, &str, &[u8]); 27] = [
        ("not JSON", "an empty body", b""),
        ("not JSON", "a blank body", b" \r\n"),
        ("not JSON", "not JSON", b"not JSON"),
        ("not JSON", "cut short", b"{\"event\":\"course.compl"),
        ("not JSON", "more after its end", b"{\"event\":\"x\"} {\"event\":\"y\"}"),
        ("not JSON", "a comma too many", b"{\"event\":\"x\",}"),
        ("not JSON", "NaN", b"{\"event\":\"x\",\"n\":NaN}"),
        ("not JSON", "a form", b"event=course.completed&companyId=acme"),
        ("not a JSON object", "a number", b"7"),
        ("not a JSON object", "an array", b"[{\"event\":\"x\"}]"),
        ("not a JSON object", "null", b"null"),
        ("not a JSON object", "a text", b"\"text\""),
        ("not JSON", "a byte order mark", b"\xef\xbb\xbf{\"event\":\"x\"}"),
        ("not JSON", "UTF-16", b"{\0\"\0e\0v\0"),
        ("not JSON", "invalid UTF-8", b"{\"event\":\"\xff\xfe\"}"),
        ("not JSON", "an overlong encoding", b"{\"event\":\"\xc0\x80\"}"),
        ("control character", "\\u0000 in the type", b"{\"event\":\"a\\u0000b\"}"),
        ("control character", "a line end in the type", b"{\"event\":\"a\\r\\nx-injected: b\"}"),
        ("not JSON", "a lone surrogate", b"{\"event\":\"x\",\"data\":{\"name\":\"\\ud800\"}}"),
        ("not JSON", "1e400", b"{\"event\":\"x\",\"n\":1e400}"),
        ("no event type", "no type", b"{\"data\":{}}"),
        ("no event type", "a type that is null", b"{\"event\":null}"),
        ("no event type", "an empty type", b"{\"event\":\"\"}"),
        ("characters", "a type of 201 characters", too_long.as_bytes()),
        ("characters", "a user of 201 characters", long_user.as_bytes()),
        ("not JSON", "200 levels", too_deep.as_bytes()),
        ("not JSON", "60,000 levels", far_too_deep.as_bytes()),
    ];
    for (reason, name, body) in held {
        table.held(reason, name, Request::signed(name, &seconds(0), body));
    }
    let processable: [(&str, &[u8]); 15] = [
        ("2^53+1", b"{\"event\":\"x\",\"n\":9007199254740993}"),
        ("40 digits", b"{\"event\":\"x\",\"n\":1234567890123456789012345678901234567890.10}"),
        ("duplicate keys", b"{\"event\":\"x\",\"event\":\"y\"}"),
        ("\\u0000 beside what is read", b"{\"event\":\"x\",\"data\":{\"name\":\"\\u0000\"}}"),
        ("an unknown type", b"{\"event\":\"never.heard.of\",\"data\":null}"),
        ("a type that is a number", b"{\"event\":7}"),
        ("a type beyond ASCII", "{\"event\":\"\u{e4}gypten.\u{1f42a}\"}".as_bytes()),
        ("a type of 200 characters", long_enough.as_bytes()),
        ("a user that is a number", b"{\"event\":\"x\",\"data\":{\"userId\":7}}"),
        ("a user that is an object", b"{\"event\":\"x\",\"data\":{\"userId\":{\"a\":1}}}"),
        ("a user beyond ASCII", "{\"event\":\"x\",\"data\":{\"userId\":\"\u{202e}\u{e4}\u{1f42a}\"}}".as_bytes()),
        ("data that is a list", b"{\"event\":\"x\",\"data\":[1]}"),
        ("blanks around", b" \r\n\t{ \"event\" : \"x\" }\r\n"),
        ("100 levels", deep_enough.as_bytes()),
        ("5,000 keys", many_keys.as_bytes()),
    ];
    for (name, body) in processable {
        table.stored(name, Request::signed(name, &seconds(0), body));
    }
}

fn companies_and_secrets(table: &mut Table) {
    let of_company = |id: &str, company: &str| {
        Request::signed(id, &seconds(0), format!(r#"{{"event":"x","id":"{id}"{company}}}"#).as_bytes()).to("acme")
    };
    table.stored("our company", of_company("ours", r#","companyId":"acme""#));
    table.held("another company", "another company", of_company("theirs", r#","companyId":"other""#));
    table.held("another company", "our company in capitals", of_company("capital", r#","companyId":"ACME""#));
    table.held("no company", "no company", of_company("none", ""));
    table.held("no company", "a company that is null", of_company("null", r#","companyId":null"#));
    table.stored("any company, where none is asked for", of_company("any", r#","companyId":"other""#).to("mindtickle"));

    let with = |id: &str, secret: &str, source: &str| good(id).with(SIGNATURE, sign(secret, &seconds(0), &body(id))).to(source);
    table.stored("the previous secret during a rotation", with("previous", SECRET, "rotating"));
    table.stored("the next secret during a rotation", with("next", "next", "rotating"));
    table.refused(403, "a secret that is no longer there", with("x", "previous", "rotating").bytes());
    table.refused(403, "another source's secret", with("x", "next", "mindtickle").bytes());
}

fn ids(table: &mut Table) {
    let id_of = |id: &[u8], user: &str| Request::signed("x", &seconds(0), &body(user)).with(ID, id);
    table.derived("no id", id_of(b"", "no-id").without(ID));
    table.derived("an empty id", id_of(b"", "empty-id"));
    table.derived("an id of 201 characters", id_of("x".repeat(201).as_bytes(), "201"));
    table.derived("an id beyond ASCII", id_of("caf\u{e9}".as_bytes(), "caf"));
    table.derived("an id that is not text", id_of(b"a\xff", "not-text"));
    table.derived("a tab in the id", id_of(b"a\tb", "tab"));
    table.derived("two ids", id_of(b"one", "two-ids").and(ID, "two"));
    table.stored("an id of 200 characters", id_of("x".repeat(200).as_bytes(), "200"));
    table.stored("an id of one character", id_of(b"!", "one"));
    table.stored("an id with blanks and quotes within", id_of(b"a '\"\\;--%s{}$1 b", "odd"));
    table.stored("an id that looks like SQL", id_of(b"'); drop table sluice.log cascade; --", "sql"));
    table.stored("an id that looks derived", id_of(b"derived-00000000000000000000000000000000", "looks"));
}

fn repeats(table: &mut Table) {
    let once = good("again");
    let mut case = |name: &str, requests: &[&Request], rows: Vec<Row>| {
        let sends = requests.iter().map(|request| (request.bytes(), vec![200])).collect();
        table.case(name, sends, rows);
    };
    let held = |request: &Request, reason| Row { held: Some(reason), ..request.row() };
    case("the same id and body", &[&once, &once], vec![once.row()]);
    let later = Request::signed("again", &seconds(-1), &once.body);
    case("the same, signed again", &[&later], vec![]);
    let other = Request::signed("again", &seconds(0), &body("other"));
    case("the same id, another body", &[&other, &other], vec![held(&other, "another body")]);
    let elsewhere = Request::signed("again", &seconds(0), br#"{"event":"x","companyId":"other"}"#).to("acme");
    case("the same id at another source", &[&elsewhere], vec![held(&elsewhere, "another company")]);
    let genuine = good("squatted");
    let squatter = Request::signed("squatted", &seconds(0), b"not JSON either");
    case("a held one, and then the genuine one", &[&squatter, &genuine, &squatter], vec![held(&squatter, "not JSON"), genuine.row()]);
    let twin = once.clone().with(ID, "twin");
    case("signed alike, under another id, at once", &[&twin], vec![twin.row()]);
    let captured = Request::signed("captured", &seconds(600), &body("captured"));
    case("captured, and sent under another id", &[&captured, &captured.clone().with(ID, "capturer"), &captured], vec![captured.row()]);
    let nameless = Request::signed("x", &seconds(0), &body("nameless")).without(ID);
    case("twice without an id", &[&nameless, &nameless], vec![Row { id: None, body: nameless.body.clone(), held: None }]);
}
