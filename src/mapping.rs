//! Expressions of the config, in CEL: `when` filters and `body` maps. Pure.
//!
//! An expression sees `event`, the payload, and `meta`: `id`, `type`, `source` and `received_at` of the event. Its values are typed,
//! so nothing of an event can become part of the expression or of the JSON around it. The language has no loops but its macros, and the
//! library has no budget of steps; so length, nesting of macros and payload are limited here.

use cel::common::ast::{EntryExpr, Expr, IdedEntryExpr, IdedExpr};
use cel::{Context, Env, ExecutionError, Program};
use serde_json::{Map, Value};
use std::fmt;
use std::sync::{Arc, LazyLock};

/// Longest expression.
const SOURCE_BYTES_MAX: usize = 4096;
/// `map`, `filter`, `all` … within one another: each level multiplies the work by the length of a list.
const MACROS_NESTED_MAX: usize = 2;
/// Largest payload that expressions are evaluated on. Two nested macros over lists in it take seconds at most.
const PAYLOAD_BYTES_MAX: usize = 64 * 1024;

/// One expression, compiled.
#[derive(Clone)]
pub struct Expression {
    source: Arc<str>,
    program: Arc<Program>,
}

/// A JSON value whose texts are expressions: `body` of a sink.
#[derive(Debug, Clone)]
pub enum Mapping {
    Expression(Expression),
    /// A number or a boolean, as it is.
    Constant(Value),
    Table(Vec<(String, Mapping)>),
    List(Vec<Mapping>),
}

/// What expressions see of an event.
pub struct Subject<'a> {
    context: Context<'a, 'a>,
}

/// What an event is besides its payload: `meta`.
#[derive(Debug, Clone, Copy)]
pub struct Meta<'a> {
    pub id: &'a str,
    pub event_type: Option<&'a str>,
    pub source: &'a str,
    pub received_at: chrono::DateTime<chrono::Utc>,
}

/// Why an expression gave no value for an event. Repeats nothing of the event: it may be personal.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unevaluated {
    #[error("the payload is larger than the {} KiB that expressions are evaluated on", PAYLOAD_BYTES_MAX / 1024)]
    Large,
    #[error("the payload is not JSON")]
    NotJson,
    #[error("the event has no `{0}`; where it may be absent, ask first: has(event.data.{0}) && …")]
    NoSuchKey(String),
    #[error("{0}")]
    Types(String),
    #[error("it must give true or false, and gave something else")]
    NotBoolean,
    #[error("its value is not one that JSON can hold")]
    NotJsonable,
    #[error("it cannot be evaluated for this event")]
    Other,
}

impl Expression {
    /// Compiles an expression. The error says what is wrong, and where in the expression.
    pub fn parse(source: &str) -> Result<Self, String> {
        if source.len() > SOURCE_BYTES_MAX {
            return Err(format!("must not be longer than {SOURCE_BYTES_MAX} bytes"));
        }
        let program = Program::compile(source).map_err(|errors| {
            // The parser's own words would repeat the expression, into which a variable may have put a secret.
            let (line, column) = errors.errors.first().map_or((1, 1), |error| error.pos);
            format!("must be an expression in CEL, such as \"event.data.score < 70\": this one cannot be read from its line {line}, column {column} on")
        })?;
        if macros_nested(program.expression()) > MACROS_NESTED_MAX {
            return Err(format!("must not nest macros such as `map` or `all` deeper than {MACROS_NESTED_MAX}"));
        }
        if let Some(unknown) = unknown_variable(program.expression(), &mut Vec::new()) {
            let at = program.source_info().offset_for(unknown).map_or(0, |(start, _)| start + 1);
            return Err(format!("knows `event` and `meta` alone, and not what stands at character {at} of it"));
        }
        if !program.references().functions().iter().all(|name| is_function(name)) {
            return Err("calls a function that CEL does not have".into());
        }
        Ok(Self { source: source.into(), program: Arc::new(program) })
    }

    /// The value for an event.
    pub fn evaluate(&self, subject: &Subject) -> Result<Value, Unevaluated> {
        let value = self.program.execute(&subject.context).map_err(|error| self.unevaluated(&error))?;
        value.json().map_err(|_| Unevaluated::NotJsonable)
    }

    /// The value for an event, of an expression that must be true or false.
    pub fn holds(&self, subject: &Subject) -> Result<bool, Unevaluated> {
        self.evaluate(subject)?.as_bool().ok_or(Unevaluated::NotBoolean)
    }

    fn unevaluated(&self, error: &ExecutionError) -> Unevaluated {
        match error {
            // A key can be computed from the event; one that is written in the expression cannot.
            ExecutionError::NoSuchKey(key) if self.source.contains(key.as_str()) => Unevaluated::NoSuchKey(key.to_string()),
            ExecutionError::NoSuchOverload(overload) => Unevaluated::Types(overload.to_string()),
            _ => Unevaluated::Other,
        }
    }
}

impl fmt::Debug for Expression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Expression").field(&self.source).finish()
    }
}

impl Mapping {
    /// The JSON value for an event.
    pub fn evaluate(&self, subject: &Subject) -> Result<Value, Unevaluated> {
        Ok(match self {
            Self::Expression(expression) => expression.evaluate(subject)?,
            Self::Constant(value) => value.clone(),
            Self::Table(entries) => {
                let entries = entries.iter().map(|(key, mapping)| Ok((key.clone(), mapping.evaluate(subject)?)));
                Value::Object(entries.collect::<Result<Map<_, _>, _>>()?)
            }
            Self::List(items) => Value::Array(items.iter().map(|item| item.evaluate(subject)).collect::<Result<_, _>>()?),
        })
    }
}

impl Subject<'_> {
    /// What expressions are to see of an event.
    pub fn new(payload: &[u8], meta: &Meta) -> Result<Self, Unevaluated> {
        if payload.len() > PAYLOAD_BYTES_MAX {
            return Err(Unevaluated::Large);
        }
        let event: Value = serde_json::from_slice(payload).map_err(|_| Unevaluated::NotJson)?;
        let meta = serde_json::json!({
            "id": meta.id,
            "type": meta.event_type,
            "source": meta.source,
            "received_at": meta.received_at.to_rfc3339_opts(chrono::SecondsFormat::Millis, true),
        });
        Ok(Self::of(&event, &meta))
    }

    fn of(event: &Value, meta: &Value) -> Self {
        let mut context = Context::with_env(Arc::clone(&LIBRARY));
        context.add_variable_from_value("event", to_cel(event));
        context.add_variable_from_value("meta", to_cel(meta));
        Self { context }
    }
}

/// CEL's own functions. To list them anew costs more than most expressions do.
static LIBRARY: LazyLock<Arc<Env>> = LazyLock::new(|| Arc::new(Env::stdlib()));

/// JSON as CEL sees it. Whole numbers become `int`: the library's own conversion makes positive ones `uint`, which does not add up with
/// the literals of an expression.
fn to_cel(value: &Value) -> cel::Value {
    match value {
        Value::Null => cel::Value::Null,
        Value::Bool(boolean) => (*boolean).into(),
        Value::Number(number) => match number.as_i64() {
            Some(number) => number.into(),
            None => number.as_f64().unwrap_or(f64::NAN).into(),
        },
        Value::String(text) => text.as_str().into(),
        Value::Array(items) => items.iter().map(to_cel).collect::<Vec<_>>().into(),
        Value::Object(entries) => {
            let entries = entries.iter().map(|(key, value)| (key.clone(), to_cel(value)));
            entries.collect::<std::collections::HashMap<String, cel::Value>>().into()
        }
    }
}

/// The parts that an expression is made of; a macro's own are those of the loop it has become.
fn parts(expression: &IdedExpr) -> Vec<&IdedExpr> {
    match &expression.expr {
        Expr::Unspecified | Expr::Ident(_) | Expr::Literal(_) => Vec::new(),
        Expr::Call(call) => call.target.as_deref().into_iter().chain(&call.args).collect(),
        Expr::Select(select) => vec![&select.operand],
        Expr::List(list) => list.elements.iter().collect(),
        Expr::Map(map) => map.entries.iter().flat_map(entry_parts).collect(),
        Expr::Struct(fields) => fields.entries.iter().flat_map(entry_parts).collect(),
        Expr::Comprehension(each) => vec![&each.iter_range, &each.accu_init, &each.loop_cond, &each.loop_step, &each.result],
    }
}

fn entry_parts(entry: &IdedEntryExpr) -> Vec<&IdedExpr> {
    match &entry.expr {
        EntryExpr::StructField(field) => vec![&field.value],
        EntryExpr::MapEntry(entry) => vec![&entry.key, &entry.value],
    }
}

/// How deep macros are within one another.
fn macros_nested(expression: &IdedExpr) -> usize {
    let deepest = parts(expression).into_iter().map(macros_nested).max().unwrap_or(0);
    match &expression.expr {
        // What a macro goes over is evaluated once, before its first round.
        Expr::Comprehension(each) => {
            macros_nested(&each.iter_range).max(1 + macros_nested(&each.loop_step).max(macros_nested(&each.loop_cond)))
        }
        _ => deepest,
    }
}

/// The number of a name in it that is neither ours, nor a type's, nor a macro's variable in scope.
fn unknown_variable<'a>(expression: &'a IdedExpr, scope: &mut Vec<&'a str>) -> Option<u64> {
    match &expression.expr {
        Expr::Ident(name) => {
            let is_known = matches!(name.as_str(), "event" | "meta") || TYPES.contains(&name.as_str()) || scope.contains(&name.as_str());
            (!is_known).then_some(expression.id)
        }
        Expr::Comprehension(each) => {
            if let Some(unknown) = unknown_variable(&each.iter_range, scope) {
                return Some(unknown);
            }
            let outer = scope.len();
            scope.extend([each.iter_var.as_str(), each.accu_var.as_str()]);
            scope.extend(each.iter_var2.as_deref());
            let inner = [&each.accu_init, &each.loop_cond, &each.loop_step, &each.result];
            let unknown = inner.into_iter().find_map(|part| unknown_variable(part, scope));
            scope.truncate(outer);
            unknown
        }
        _ => parts(expression).into_iter().find_map(|part| unknown_variable(part, scope)),
    }
}

/// Types can be named, as in `type(event.data.score) == int`.
const TYPES: [&str; 11] = ["bool", "bytes", "double", "duration", "int", "list", "map", "null_type", "string", "timestamp", "uint"];

/// Whether there is such a function. The library keeps no list, but it tells a call that does not fit from one of a name it does not know.
fn is_function(name: &str) -> bool {
    let is_word = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_') && !name.starts_with('_');
    let context = Context::with_env(Arc::clone(&LIBRARY));
    let is_unknown = |call: String| {
        let called = Program::compile(&call).map(|program| program.execute(&context));
        matches!(called, Ok(Err(ExecutionError::UndeclaredReference(_))))
    };
    // Operators have names that are no words.
    !is_word || !is_unknown(format!("{name}()")) || !is_unknown(format!("''.{name}()"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const PAYLOAD: &str = r#"{"event":"quiz.submitted","companyId":"acme","data":{"userId":"u-1","score":45,"maxScore":60,"rate":0.5,"tags":["a","b"],"none":null}}"#;

    fn subject(payload: &str) -> Subject<'static> {
        let received_at = chrono::DateTime::from_timestamp(1_767_323_045, 0).unwrap();
        let meta = Meta { id: "evt_1", event_type: Some("quiz.submitted"), source: "mindtickle", received_at };
        Subject::new(payload.as_bytes(), &meta).unwrap()
    }

    fn evaluate(source: &str) -> Result<Value, Unevaluated> {
        Expression::parse(source).unwrap_or_else(|error| panic!("{source}: {error}")).evaluate(&subject(PAYLOAD))
    }

    #[test]
    fn an_expression_sees_the_payload_and_what_is_known_of_the_event() {
        for (source, expected) in [
            ("event.data.score < 70", json!(true)),
            ("event.data.score * 100 / event.data.maxScore", json!(75)),
            ("double(event.data.score) / 60.0", json!(0.75)),
            ("event.data.rate < 1", json!(true)),
            ("has(event.data.passed) && event.data.passed", json!(false)),
            ("event.data.tags.exists(t, t == 'b')", json!(true)),
            ("event.companyId + ':' + event.data.userId", json!("acme:u-1")),
            (
                "meta.id + ' ' + meta.type + ' ' + meta.source + ' ' + meta.received_at",
                json!("evt_1 quiz.submitted mindtickle 2026-01-02T03:04:05.000Z"),
            ),
            ("event.data.none == null", json!(true)),
            ("{'a': [1, 2.5]}", json!({"a": [1, 2.5]})),
        ] {
            assert_eq!(evaluate(source), Ok(expected), "{source}");
        }
    }

    #[test]
    fn what_cannot_be_evaluated_says_why_and_repeats_nothing_of_the_event() {
        assert_eq!(evaluate("event.data.passed"), Err(Unevaluated::NoSuchKey("passed".into())));
        for source in ["event.data.userId < 70", "event.data[event.data.userId]", "event.data.tags[7]", "event.data.score / 0"] {
            let error = evaluate(source).unwrap_err().to_string();
            assert!(!error.contains("u-1") && !error.contains("45"), "{source}: {error}");
        }
        assert_eq!(Expression::parse("event.data.score").unwrap().holds(&subject(PAYLOAD)), Err(Unevaluated::NotBoolean));
    }

    #[test]
    fn an_expression_that_could_never_work_is_refused_with_its_reason() {
        for (source, reason) in [
            ("event.data.score <", "line 1, column 19"),
            ("", "line 1, column"),
            ("event.data.n < score", "at character 16"),
            ("shout(event.event)", "a function that CEL does not have"),
            ("[1].all(a, [1].all(b, [1].all(c, true)))", "deeper than 2"),
            ("event.data.tags.all(t, u == t)", "at character 24"),
            (&format!("'{}'", "x".repeat(5000)), "longer than 4096 bytes"),
        ] {
            let error = Expression::parse(source).unwrap_err();
            assert!(error.contains(reason), "{source}: {error}");
        }
        for source in [
            "[1].all(a, [1].all(b, true)) && [1].all(c, true)",
            "type(event.data.score) == int",
            "event.event.startsWith('quiz') && size(event.data.tags) > 0 && event.event.matches('^q')",
            "int(string(timestamp(meta.received_at).getFullYear())) > 2000 ? [1].map(x, x + 1) : []",
        ] {
            assert!(Expression::parse(source).is_ok(), "{source}: {:?}", Expression::parse(source));
        }
    }

    #[test]
    fn a_payload_that_is_large_or_not_json_is_not_evaluated() {
        let meta = Meta { id: "e", event_type: None, source: "s", received_at: chrono::DateTime::UNIX_EPOCH };
        let refused = |payload: &[u8]| Subject::new(payload, &meta).err();
        assert_eq!(refused(&vec![b' '; 64 * 1024 + 1]), Some(Unevaluated::Large));
        assert_eq!(refused(b"\xff"), Some(Unevaluated::NotJson));
    }
}
