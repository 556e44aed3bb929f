//! YAML as kubectl writes it: block style, lists not indented, quotes only where a reader would see another type.

use serde_json::Value;

/// The words that some reader of YAML 1.1 takes for a boolean or for nothing.
const WORDS: &[&str] =
    &["", "~", "null", "true", "false", "yes", "no", "on", "off", "y", "n", "<<", "=", ".nan", ".inf"];

/// The text of a value; ends in a line break.
pub fn text(value: &Value) -> String {
    let mut out = String::new();
    match value {
        Value::Object(map) if !map.is_empty() => object(map, 0, &mut out),
        Value::Array(list) if !list.is_empty() => array(list, 0, &mut out),
        other => scalar(other, 0, &mut out),
    }
    out
}

fn pad(indent: usize, out: &mut String) {
    out.extend(std::iter::repeat_n(' ', indent));
}

fn object(map: &serde_json::Map<String, Value>, indent: usize, out: &mut String) {
    for (index, (key, value)) in map.iter().enumerate() {
        if index > 0 || out.ends_with('\n') {
            pad(indent, out);
        }
        out.push_str(&one_line(key));
        out.push(':');
        match value {
            Value::Object(inner) if !inner.is_empty() => {
                out.push('\n');
                object(inner, indent + 2, out);
            }
            Value::Array(inner) if !inner.is_empty() => {
                out.push('\n');
                array(inner, indent, out);
            }
            other => {
                out.push(' ');
                scalar(other, indent + 2, out);
            }
        }
    }
}

fn array(list: &[Value], indent: usize, out: &mut String) {
    for (index, value) in list.iter().enumerate() {
        if index > 0 || out.ends_with('\n') {
            pad(indent, out);
        }
        out.push_str("- ");
        match value {
            Value::Object(inner) if !inner.is_empty() => object(inner, indent + 2, out),
            Value::Array(inner) if !inner.is_empty() => array(inner, indent + 2, out),
            other => scalar(other, indent + 2, out),
        }
    }
}

/// A value on its line, or a text of several lines below it.
fn scalar(value: &Value, indent: usize, out: &mut String) {
    match value {
        Value::String(text) if is_block(text) => {
            let ending = match text.trim_end_matches('\n').len() {
                length if length == text.len() => "|-",
                length if length + 1 == text.len() => "|",
                _ => "|+",
            };
            out.push_str(ending);
            out.push('\n');
            for line in text.strip_suffix('\n').unwrap_or(text).split('\n') {
                if !line.is_empty() {
                    pad(indent.max(2), out);
                    out.push_str(line);
                }
                out.push('\n');
            }
        }
        Value::String(text) => {
            out.push_str(&one_line(text));
            out.push('\n');
        }
        other => {
            out.push_str(&other.to_string());
            out.push('\n');
        }
    }
}

/// Whether a text can stand as it is, line by line.
fn is_block(text: &str) -> bool {
    text.contains('\n')
        && !text.starts_with([' ', '\t', '\n'])
        && text.chars().all(|c| c == '\n' || is_printable(c))
        && !text.lines().any(|line| line.ends_with([' ', '\t']))
}

fn is_printable(c: char) -> bool {
    !c.is_control() && !matches!(c, '\u{feff}' | '\u{2028}' | '\u{2029}' | '\u{fffe}' | '\u{ffff}')
}

fn one_line(text: &str) -> String {
    if !text.chars().all(is_printable) {
        return double(text);
    }
    if is_other_type(text) {
        return format!("\"{text}\"");
    }
    let special = text.starts_with(|c: char| ",[]{}#&*!|>'\"%@`".contains(c))
        || text.starts_with(['-', '?', ':'])
            && text[1..].chars().next().is_none_or(|c| c == ' ' || c == '-' || c == ':')
        || text.starts_with(' ')
        || text.ends_with([' ', ':'])
        || text.contains(": ")
        || text.contains(" #");
    if special { format!("'{}'", text.replace('\'', "''")) } else { text.to_owned() }
}

/// Whether a reader would take the bare text for a number, a time, a boolean or nothing.
fn is_other_type(text: &str) -> bool {
    let lower = text.to_ascii_lowercase();
    let unsigned = lower.trim_start_matches(['+', '-']);
    let numeric = unsigned.starts_with(|c: char| c.is_ascii_digit() || c == '.');
    let plain: String = unsigned.chars().filter(|c| *c != '_').collect();
    let based = ["0x", "0o", "0b"]
        .iter()
        .any(|base| plain.strip_prefix(base).is_some_and(|rest| rest.chars().all(|c| c.is_ascii_hexdigit())));
    let sexagesimal = unsigned.contains(':')
        && unsigned.split(':').all(|part| part.parse::<f64>().is_ok() && !part.contains('e'));
    let bytes = text.as_bytes();
    let dated = bytes.len() >= 8 && bytes[..4].iter().all(u8::is_ascii_digit) && bytes[4] == b'-' && {
        let day = text.split(['T', 't', ' ']).next().unwrap_or_default();
        day.split('-').count() == 3
            && day.split('-').all(|part| part.len() <= 4 && part.parse::<u16>().is_ok())
    };
    WORDS.contains(&lower.as_str())
        || WORDS.contains(&unsigned)
        || numeric && (plain.parse::<f64>().is_ok() || based || sexagesimal)
        || dated
}

fn double(text: &str) -> String {
    let mut out = String::from("\"");
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\t' => out.push_str("\\t"),
            '\r' => out.push_str("\\r"),
            c if is_printable(c) => out.push(c),
            c if u32::from(c) <= 0xff => out.push_str(&format!("\\x{:02X}", u32::from(c))),
            c => out.push_str(&format!("\\u{:04X}", u32::from(c))),
        }
    }
    out.push('"');
    out
}
