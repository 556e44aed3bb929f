//! The grammar of label selectors (k8s.io/apimachinery `labels.Parse`).

use super::{LabelSelector, Operator, REQUIREMENTS_MAX, Requirement, SelectorError};
use std::collections::BTreeSet;

const NAME: &str = "name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character, and be no more than 63 characters";
const PREFIX: &str = "prefix part must be a lowercase RFC 1123 subdomain of no more than 253 characters";
const VALUE: &str = "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character, and be no more than 63 characters";

#[derive(Debug, PartialEq, Eq)]
enum Token<'a> {
    Word(&'a str),
    Sign(&'a str),
    End,
}

impl Token<'_> {
    fn shown(&self) -> &str {
        match self {
            Token::Word(text) | Token::Sign(text) => text,
            Token::End => "",
        }
    }
}

struct Scanner<'a> {
    rest: &'a str,
}

impl<'a> Scanner<'a> {
    fn peek(&self) -> (Token<'a>, &'a str) {
        let text = self.rest.trim_start_matches([' ', '\t', '\r', '\n']);
        if text.is_empty() {
            return (Token::End, text);
        }
        for sign in ["==", "!=", "=", "!", "(", ")", ",", "<", ">"] {
            if let Some(rest) = text.strip_prefix(sign) {
                return (Token::Sign(&text[..sign.len()]), rest);
            }
        }
        let end = text.find(|c: char| " \t\r\n=!(),<>".contains(c)).unwrap_or(text.len());
        (Token::Word(&text[..end]), &text[end..])
    }

    fn next(&mut self) -> Token<'a> {
        let (token, rest) = self.peek();
        self.rest = rest;
        token
    }
}

fn grammar(found: &Token<'_>, expected: &str) -> SelectorError {
    SelectorError::Grammar { why: format!("found '{}', expected: {expected}", found.shown()) }
}

/// Reads the whole text.
pub(super) fn label_selector(text: &str) -> Result<LabelSelector, SelectorError> {
    let mut scanner = Scanner { rest: text };
    let mut requirements = Vec::new();
    if scanner.peek().0 == Token::End {
        return Ok(LabelSelector { requirements });
    }
    loop {
        if requirements.len() == REQUIREMENTS_MAX {
            return Err(SelectorError::TooMany);
        }
        requirements.push(requirement(&mut scanner)?);
        match scanner.next() {
            Token::End => return Ok(LabelSelector { requirements }),
            Token::Sign(",") => {}
            other => return Err(grammar(&other, "',' or 'end of string'")),
        }
    }
}

fn requirement(scanner: &mut Scanner<'_>) -> Result<Requirement, SelectorError> {
    let mut token = scanner.next();
    let absent = token == Token::Sign("!");
    if absent {
        token = scanner.next();
    }
    let Token::Word(key) = token else { return Err(grammar(&token, "!, identifier, or ','")) };
    let key = check_key(key)?;
    if absent {
        return Ok(Requirement { key, operator: Operator::DoesNotExist });
    }
    if matches!(scanner.peek().0, Token::End | Token::Sign(",")) {
        return Ok(Requirement { key, operator: Operator::Exists });
    }
    let operator = match scanner.next() {
        Token::Sign("=" | "==") => Operator::In(BTreeSet::from([single(scanner)?])),
        Token::Sign("!=") => Operator::NotIn(BTreeSet::from([single(scanner)?])),
        Token::Sign(">") => Operator::GreaterThan(number(scanner)?),
        Token::Sign("<") => Operator::LessThan(number(scanner)?),
        Token::Word("in") => Operator::In(set(scanner)?),
        Token::Word("notin") => Operator::NotIn(set(scanner)?),
        other => return Err(grammar(&other, "in, notin, =, ==, !=, gt, lt")),
    };
    Ok(Requirement { key, operator })
}

/// One value; nothing before a comma or the end is the empty one.
fn single(scanner: &mut Scanner<'_>) -> Result<String, SelectorError> {
    match scanner.peek().0 {
        Token::End | Token::Sign(",") => Ok(String::new()),
        _ => match scanner.next() {
            Token::Word(value) => check_value(value),
            other => Err(grammar(&other, "identifier")),
        },
    }
}

fn number(scanner: &mut Scanner<'_>) -> Result<i64, SelectorError> {
    let text = single(scanner)?;
    text.parse().map_err(|_| SelectorError::Values {
        values: vec![text],
        why: "for 'Gt', 'Lt' operators, the value must be an integer",
    })
}

fn set(scanner: &mut Scanner<'_>) -> Result<BTreeSet<String>, SelectorError> {
    match scanner.next() {
        Token::Sign("(") => {}
        other => return Err(grammar(&other, "'('")),
    }
    let mut values = BTreeSet::new();
    loop {
        // `(a,,b)` and `()` hold the empty value, as in Kubernetes.
        let value = match scanner.peek().0 {
            Token::Sign("," | ")") => String::new(),
            _ => match scanner.next() {
                Token::Word(value) => check_value(value)?,
                other => return Err(grammar(&other, "',', ')' or identifier")),
            },
        };
        values.insert(value);
        match scanner.next() {
            Token::Sign(")") => return Ok(values),
            Token::Sign(",") => {}
            other => return Err(grammar(&other, "',' or ')'")),
        }
    }
}

/// The operator of a `matchExpressions` entry.
pub(super) fn operator(name: &str, values: Vec<String>) -> Result<Operator, SelectorError> {
    let wrong = |values, why| Err(SelectorError::Values { values, why });
    match name {
        "In" | "NotIn" if values.is_empty() => {
            wrong(values, "for 'in', 'notin' operators, values set can't be empty")
        }
        "In" => Ok(Operator::In(values.into_iter().collect())),
        "NotIn" => Ok(Operator::NotIn(values.into_iter().collect())),
        "Exists" | "DoesNotExist" if !values.is_empty() => {
            wrong(values, "values set must be empty for exists and does not exist")
        }
        "Exists" => Ok(Operator::Exists),
        "DoesNotExist" => Ok(Operator::DoesNotExist),
        _ => Err(SelectorError::Operator { operator: name.to_owned() }),
    }
}

fn is_name(text: &str) -> bool {
    let inner = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    let outer = |c: Option<char>| c.is_some_and(|c| c.is_ascii_alphanumeric());
    text.len() <= 63
        && text.chars().all(inner)
        && outer(text.chars().next())
        && outer(text.chars().next_back())
}

fn is_subdomain(text: &str) -> bool {
    let edge = |c: Option<char>| c.is_some_and(|c| c.is_ascii_lowercase() || c.is_ascii_digit());
    let label = |part: &str| {
        edge(part.chars().next())
            && edge(part.chars().next_back())
            && part.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-')
    };
    text.len() <= 253 && text.split('.').all(label)
}

fn check_key(key: &str) -> Result<String, SelectorError> {
    let wrong = |why| Err(SelectorError::Label { field: "key", value: key.to_owned(), why });
    let name = match key.split_once('/') {
        Some((prefix, _)) if !is_subdomain(prefix) => return wrong(PREFIX),
        Some((_, name)) => name,
        None => key,
    };
    if is_name(name) { Ok(key.to_owned()) } else { wrong(NAME) }
}

fn check_value(value: &str) -> Result<String, SelectorError> {
    if value.is_empty() || is_name(value) {
        Ok(value.to_owned())
    } else {
        Err(SelectorError::Label { field: "values", value: value.to_owned(), why: VALUE })
    }
}
