//! `${VAR}`, `${VAR:-default}` and `${file:PATH}` in the config's text values.
//!
//! It happens after TOML was parsed, so that no value can add keys. What is put in is not looked at again. `$${` stands for
//! a literal `${`; any other `$` is itself, so that a secret with a `$` in it needs no care.

use super::error::Problem;
use serde_spanned::Spanned;
use std::io::Read as _;
use toml::de::DeValue;

/// Where the values come from.
pub(super) struct Lookup<'a> {
    /// The environment.
    pub env: &'a dyn Fn(&str) -> Option<String>,
    /// A file's text; `Err` says what is wrong, without its content.
    pub file: &'a dyn Fn(&str) -> Result<String, String>,
}

/// Expands every text value below `value`.
pub(super) fn expand_all(value: &mut Spanned<DeValue<'_>>, lookup: &Lookup<'_>) -> Result<(), Problem> {
    let span = value.span();
    match value.get_mut() {
        DeValue::String(text) if text.contains("${") => {
            *text = expand(text, lookup).map_err(|message| Problem::new(span, message))?.into();
            Ok(())
        }
        DeValue::Array(items) => items.iter_mut().try_for_each(|item| expand_all(item, lookup)),
        DeValue::Table(table) => table.iter_mut().try_for_each(|(_, item)| expand_all(item, lookup)),
        _ => Ok(()),
    }
}

/// Expands one text. `Err` names the variable or the file, and never a value.
pub(super) fn expand(text: &str, lookup: &Lookup<'_>) -> Result<String, String> {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find("${") {
        let (before, reference) = (&rest[..at], &rest[at + 2..]);
        if let Some(before) = before.strip_suffix('$') {
            out.push_str(before);
            out.push_str("${");
            rest = reference;
            continue;
        }
        out.push_str(before);
        let (name, after) = reference.split_once('}').ok_or("has a `${` without its `}`: close it, or write `$${` for a literal `${`")?;
        out.push_str(&resolve(name, lookup)?);
        rest = after;
    }
    out.push_str(rest);
    Ok(out)
}

/// The value of what stands between `${` and `}`.
fn resolve(reference: &str, lookup: &Lookup<'_>) -> Result<String, String> {
    if let Some(path) = reference.strip_prefix("file:") {
        let text = (lookup.file)(path)?;
        // Editors and `kubectl create secret` end a file with a newline that is no part of the secret.
        let text = text.strip_suffix('\n').unwrap_or(&text);
        return Ok(text.strip_suffix('\r').unwrap_or(text).to_owned());
    }
    let (name, default) = match reference.split_once(":-") {
        Some((name, default)) => (name, Some(default)),
        None => (reference, None),
    };
    if !is_variable(name) {
        // Not repeated: a secret that happens to hold `${` must not end up in a message.
        return Err(
            "has a `${…}` that is none of ${VAR}, ${VAR:-default}, ${file:PATH}: correct it, or write `$${` for a literal `${`".into()
        );
    }
    match ((lookup.env)(name), default) {
        // As in a shell, `:-` also stands in for a variable that is set but empty.
        (Some(value), Some(default)) if value.is_empty() => Ok(default.to_owned()),
        (Some(value), _) => Ok(value),
        (None, Some(default)) => Ok(default.to_owned()),
        (None, None) => Err(format!("needs the environment variable {name}, which is not set: set it, or write ${{{name}:-default}}")),
    }
}

fn is_variable(name: &str) -> bool {
    let starts_well = name.starts_with(|first: char| first.is_ascii_alphabetic() || first == '_');
    starts_well && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
}

/// A secret, a certificate: nothing that belongs into a config value is longer.
const FILE_BYTES_MAX: u64 = 64 * 1024;

/// Reads the file of `${file:PATH}`; a relative path starts at the working directory.
pub(super) fn read_file(path: &str) -> Result<String, String> {
    let read = || {
        let mut text = String::new();
        std::fs::File::open(path)?.take(FILE_BYTES_MAX + 1).read_to_string(&mut text)?;
        Ok(text)
    };
    let text =
        read().map_err(|error: std::io::Error| format!("cannot read the file {path}: {error}; correct the path or its permissions"))?;
    if text.len() as u64 > FILE_BYTES_MAX {
        return Err(format!("needs the file {path}, which is longer than 64 KiB: that is not a value; correct the path"));
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn env(name: &str) -> Option<String> {
        match name {
            "A" => Some("alpha".into()),
            "EMPTY" => Some(String::new()),
            "EVIL" => Some("${A}$${A}\"\n[[sink]]".into()),
            _ => None,
        }
    }

    fn file(path: &str) -> Result<String, String> {
        match path {
            "/run/secret" => Ok("s3cret\n".into()),
            "/run/crlf" => Ok("s3cret\n\r\n".into()),
            _ => Err(format!("cannot read the file {path}")),
        }
    }

    fn expanded(text: &str) -> Result<String, String> {
        expand(text, &Lookup { env: &env, file: &file })
    }

    #[test]
    fn references_are_replaced_wherever_they_stand_and_other_dollars_stay() {
        for (text, expected) in [
            ("", ""),
            ("plain $5 $$ $}", "plain $5 $$ $}"),
            ("${A}", "alpha"),
            ("x${A}y${A}z", "xalphayalphaz"),
            ("${B:-beta}", "beta"),
            ("${B:-}", ""),
            ("${A:-beta}", "alpha"),
            ("${EMPTY}", ""),
            ("${EMPTY:-beta}", "beta"),
            ("${B:-http://h:1/?a=b:-c}", "http://h:1/?a=b:-c"),
            ("$${A}", "${A}"),
            ("$$${A}", "$${A}"),
            ("${B:-$}${A}", "$alpha"),
            ("${file:/run/secret}", "s3cret"),
            ("${file:/run/crlf}", "s3cret\n"),
        ] {
            assert_eq!(expanded(text).as_deref(), Ok(expected), "{text}");
        }
    }

    #[test]
    fn what_is_put_in_is_not_expanded_again() {
        assert_eq!(expanded("${EVIL}").unwrap(), env("EVIL").unwrap());
    }

    #[test]
    fn a_reference_that_cannot_be_resolved_is_an_error_that_names_it() {
        assert!(expanded("${B}").unwrap_err().contains("variable B, which is not set"));
        assert!(expanded("${file:/none}").unwrap_err().contains("/none"));
        for text in ["${", "a${A", "${}", "${1}", "${a-b}", "${ A }", "${:-x}", "${Ä}", "${hunter2!}"] {
            let error = expanded(text).unwrap_err();
            assert!(error.contains("$${") && !error.contains("hunter2"), "{text}: {error}");
        }
    }

    #[test]
    fn a_file_that_is_no_value_is_refused_before_it_fills_the_memory() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("large");
        std::fs::write(&path, "x".repeat(64 * 1024 + 1)).unwrap();
        assert!(read_file(path.to_str().unwrap()).unwrap_err().contains("64 KiB"));
        std::fs::write(&path, "x".repeat(64 * 1024)).unwrap();
        assert_eq!(read_file(path.to_str().unwrap()).unwrap().len(), 64 * 1024);
        assert!(read_file(folder.path().join("none").to_str().unwrap()).is_err());
    }

    proptest! {
        #[test]
        fn any_text_survives_being_escaped_and_expanded(text in "[${}:a-]{0,40}|.*") {
            prop_assert_eq!(expanded(&text.replace("${", "$${")), Ok(text));
        }

        #[test]
        fn any_value_is_put_in_as_it_is_whatever_it_refers_to(value in "([${}:-]|X|A|file:/run/secret){0,12}|.*", before in "[a-z]*", after in "[a-z}]*") {
            let env = |_: &str| Some(value.clone());
            let found = expand(&format!("{before}${{X}}{after}"), &Lookup { env: &env, file: &file });
            prop_assert_eq!(found, Ok(format!("{before}{value}{after}")));
        }

        #[test]
        fn no_text_makes_it_panic(text in "([${}:-]|file|A|é){0,30}|.*") {
            let _ = expanded(&text);
        }

        #[test]
        fn an_error_repeats_neither_what_was_put_in_nor_what_is_no_name(text in "(hunter 2|\\$\\{X\\}|\\$\\{X|\\$\\{UNSET|[${}: -]){0,10}") {
            let env = |name: &str| (name == "X").then(|| "hunter 2".to_owned());
            let found = expand(&text, &Lookup { env: &env, file: &file });
            prop_assert!(!found.is_err_and(|error| error.contains("hunter 2")));
        }
    }
}
