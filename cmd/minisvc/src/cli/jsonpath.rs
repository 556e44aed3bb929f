//! kubectl's JSONPath templates: `{.items[*].metadata.name}`, `{range .items[*]}{.a}{"\n"}{end}`.
//!
//! Served: fields (`.a`, `['a']`, `.a\.b`), `[n]`, `[-1]`, `[a:b]`, `[*]`, `.*`, `..a`, filters
//! `[?(@.a=="b")]` with `==`, `!=`, `<`, `<=`, `>`, `>=` or existence, `range`/`end`, quoted text. A field that is
//! not there prints nothing, as in kubectl.

mod evaluate;

use serde_json::Value;

/// Nesting of `range`.
const RANGE_DEPTH_MAX: usize = 16;
/// Values that one path may yield.
const RESULTS_MAX: usize = 1_000_000;

/// Why a template makes no sense.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum JsonPathError {
    /// Something begun was not ended.
    #[error("unterminated {what} in jsonpath {text:?}")]
    Unterminated {
        /// What was begun.
        what: &'static str,
        /// Where.
        text: String,
    },
    /// A part is not understood.
    #[error("unrecognized jsonpath {text:?}")]
    Unrecognized {
        /// The part.
        text: String,
    },
    /// `end` without `range`, or `range` without `end`, or too many of them inside each other.
    #[error("range and end do not match in the jsonpath template")]
    Ranges,
    /// A path yields too many values.
    #[error("the jsonpath yields more than {RESULTS_MAX} values")]
    TooMany,
}

#[derive(Debug, Clone, PartialEq)]
enum Step {
    Field(String),
    Index(i64),
    Slice(Option<i64>, Option<i64>),
    All,
    Anywhere(String),
    Filter(Vec<Step>, Option<(Comparison, Operand)>),
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Comparison {
    Equal,
    NotEqual,
    Less,
    LessEqual,
    Greater,
    GreaterEqual,
}

#[derive(Debug, Clone, PartialEq)]
enum Operand {
    Literal(Value),
    Path(Vec<Step>),
}

#[derive(Debug, Clone, PartialEq)]
enum Part {
    Text(String),
    /// Starts at the root (`$`), or at the value of the innermost `range`.
    Path {
        from_root: bool,
        steps: Vec<Step>,
    },
    Range {
        from_root: bool,
        steps: Vec<Step>,
        body: Vec<Part>,
    },
}

/// A template that was read.
#[derive(Debug, Clone, PartialEq)]
pub struct Template(Vec<Part>);

impl Template {
    /// Reads a template. One without braces is taken as one path.
    ///
    /// # Errors
    /// It does not follow the grammar.
    pub fn parse(text: &str) -> Result<Self, JsonPathError> {
        let braced;
        let mut rest = text;
        if !text.contains('{') {
            braced = format!("{{{}{text}}}", if text.starts_with(['.', '[', '$']) { "" } else { "." });
            rest = &braced;
        }
        let (parts, ended) = parts(&mut rest, 0)?;
        if ended { Err(JsonPathError::Ranges) } else { Ok(Self(parts)) }
    }

    /// The text that the template makes of a value.
    ///
    /// # Errors
    /// A path yields too many values.
    pub fn render(&self, root: &Value) -> Result<String, JsonPathError> {
        let mut out = String::new();
        evaluate::render(&self.0, root, root, &mut out)?;
        Ok(out)
    }
}

fn parts(rest: &mut &str, depth: usize) -> Result<(Vec<Part>, bool), JsonPathError> {
    let mut parts = Vec::new();
    while !rest.is_empty() {
        let Some(open) = rest.find('{') else {
            parts.push(Part::Text((*rest).to_owned()));
            *rest = "";
            break;
        };
        if open > 0 {
            parts.push(Part::Text(rest[..open].to_owned()));
        }
        let inner = &rest[open + 1..];
        let close = closing(inner, '}')
            .ok_or_else(|| JsonPathError::Unterminated { what: "brace", text: rest[open..].to_owned() })?;
        let action = inner[..close].trim();
        *rest = &inner[close + 1..];
        if action == "end" {
            return Ok((parts, true));
        }
        if let Some(path) = action.strip_prefix("range ") {
            if depth == RANGE_DEPTH_MAX {
                return Err(JsonPathError::Ranges);
            }
            let (from_root, steps) = path_of(path.trim())?;
            let (body, ended) = self::parts(rest, depth + 1)?;
            if !ended {
                return Err(JsonPathError::Ranges);
            }
            parts.push(Part::Range { from_root, steps, body });
        } else {
            actions(action, &mut parts)?;
        }
    }
    Ok((parts, false))
}

/// One pair of braces may hold several paths and texts: `{.a}{"\n"}` or `{.a "\n" .b}`.
fn actions(text: &str, into: &mut Vec<Part>) -> Result<(), JsonPathError> {
    let mut rest = text.trim();
    while let Some(first) = rest.chars().next() {
        if matches!(first, '"' | '\'') {
            let (literal, after) = quoted(rest)?;
            into.push(Part::Text(literal));
            rest = after.trim_start();
            continue;
        }
        let end = path_end(rest);
        let (from_root, steps) = path_of(&rest[..end])?;
        into.push(Part::Path { from_root, steps });
        rest = rest[end..].trim_start();
    }
    Ok(())
}

fn path_end(text: &str) -> usize {
    let mut depth = 0_usize;
    let mut quote = None;
    for (at, c) in text.char_indices() {
        match (quote, c) {
            (Some(open), c) if c == open => quote = None,
            (Some(_), _) => {}
            (None, '"' | '\'') if depth > 0 => quote = Some(c),
            (None, '[' | '(') => depth += 1,
            (None, ']' | ')') => depth = depth.saturating_sub(1),
            (None, c) if depth == 0 && (c.is_whitespace() || matches!(c, '"' | '\'')) => return at,
            _ => {}
        }
    }
    text.len()
}

/// Where the `end` is that is neither quoted nor that of inner brackets.
fn closing(text: &str, end: char) -> Option<usize> {
    let (mut quote, mut escaped, mut depth) = (None, false, 0_usize);
    for (at, c) in text.char_indices() {
        match (quote, c) {
            _ if escaped => escaped = false,
            (_, '\\') => escaped = true,
            (Some(open), c) if c == open => quote = None,
            (Some(_), _) => {}
            (None, '"' | '\'') => quote = Some(c),
            (None, c) if c == end && depth == 0 => return Some(at),
            (None, '[') if end == ']' => depth += 1,
            (None, ']') if end == ']' => depth -= 1,
            _ => {}
        }
    }
    None
}

/// A quoted text at the start, and what follows it.
fn quoted(text: &str) -> Result<(String, &str), JsonPathError> {
    let mut chars = text.char_indices();
    let quote = chars.next().map(|(_, c)| c);
    let mut out = String::new();
    while let Some((at, c)) = chars.next() {
        match c {
            '\\' => match chars.next() {
                Some((_, 'n')) => out.push('\n'),
                Some((_, 't')) => out.push('\t'),
                Some((_, 'r')) => out.push('\r'),
                Some((_, other)) => out.push(other),
                None => break,
            },
            c if Some(c) == quote => return Ok((out, &text[at + c.len_utf8()..])),
            other => out.push(other),
        }
    }
    Err(JsonPathError::Unterminated { what: "quoted string", text: text.to_owned() })
}

fn path_of(text: &str) -> Result<(bool, Vec<Step>), JsonPathError> {
    let unclear = || JsonPathError::Unrecognized { text: text.to_owned() };
    let (from_root, mut rest) = match text.strip_prefix('$') {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix('@').unwrap_or(text)),
    };
    let mut steps = Vec::new();
    if rest == text && !rest.starts_with(['.', '[']) {
        return Err(unclear());
    }
    while !rest.is_empty() {
        if let Some(after) = rest.strip_prefix("..") {
            let (name, after) = field(after);
            if name.is_empty() {
                return Err(unclear());
            }
            steps.push(Step::Anywhere(name));
            rest = after;
        } else if let Some(after) = rest.strip_prefix('.') {
            let (name, after) = field(after);
            match name.as_str() {
                "" if after.is_empty() && steps.is_empty() => {}
                "" if after.starts_with('[') => {}
                "" => return Err(unclear()),
                "*" => steps.push(Step::All),
                _ => steps.push(Step::Field(name)),
            }
            rest = after;
        } else if let Some(after) = rest.strip_prefix('[') {
            let close = closing(after, ']')
                .ok_or_else(|| JsonPathError::Unterminated { what: "array", text: rest.to_owned() })?;
            steps.push(bracket(after[..close].trim()).ok_or_else(unclear)??);
            rest = &after[close + 1..];
        } else {
            return Err(unclear());
        }
    }
    Ok((from_root, steps))
}

/// A field name; a backslash takes the next character as it is.
fn field(text: &str) -> (String, &str) {
    let mut name = String::new();
    let mut chars = text.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '\\' => name.extend(chars.next().map(|(_, c)| c)),
            '.' | '[' => return (name, &text[at..]),
            other => name.push(other),
        }
    }
    (name, "")
}

/// What stands between brackets; None if it is nothing known.
fn bracket(text: &str) -> Option<Result<Step, JsonPathError>> {
    if text == "*" {
        return Some(Ok(Step::All));
    }
    if text.starts_with(['"', '\'']) {
        return match quoted(text) {
            Ok((name, "")) => Some(Ok(Step::Field(name))),
            Ok(_) => None,
            Err(error) => Some(Err(error)),
        };
    }
    if let Some(filter) = text.strip_prefix("?(").and_then(|text| text.strip_suffix(')')) {
        return Some(self::filter(filter.trim()));
    }
    if let Some((from, to)) = text.split_once(':') {
        let bound = |text: &str| if text.is_empty() { Some(None) } else { text.parse().ok().map(Some) };
        return Some(Ok(Step::Slice(bound(from.trim())?, bound(to.trim())?)));
    }
    text.parse().ok().map(|index| Ok(Step::Index(index)))
}

fn filter(text: &str) -> Result<Step, JsonPathError> {
    const SIGNS: [(&str, Comparison); 6] = [
        ("==", Comparison::Equal),
        ("!=", Comparison::NotEqual),
        ("<=", Comparison::LessEqual),
        (">=", Comparison::GreaterEqual),
        ("<", Comparison::Less),
        (">", Comparison::Greater),
    ];
    let found = SIGNS.iter().filter_map(|(sign, comparison)| Some((text.find(sign)?, *sign, *comparison)));
    let Some((at, sign, comparison)) = found.min_by_key(|(at, sign, _)| (*at, 2 - sign.len())) else {
        return Ok(Step::Filter(path_of(text)?.1, None));
    };
    let left = path_of(text[..at].trim())?.1;
    let right = text[at + sign.len()..].trim();
    let operand = if right.starts_with(['"', '\'']) {
        Operand::Literal(Value::String(quoted(right)?.0))
    } else if right.starts_with(['@', '$', '.']) {
        Operand::Path(path_of(right)?.1)
    } else {
        let literal = serde_json::from_str(right);
        Operand::Literal(literal.map_err(|_| JsonPathError::Unrecognized { text: text.to_owned() })?)
    };
    Ok(Step::Filter(left, Some((comparison, operand))))
}

#[cfg(test)]
mod tests;
