//! The table of messages and fields, read once from `messages.txt`.
//!
//! Invariant: every line of the file counts (a test holds this); should one not be readable, no kind is taken in
//! binary, and none is misread.

use std::{collections::BTreeMap, sync::OnceLock};

const SOURCE: &str = include_str!("messages.txt");

/// The API versions of the packages whose kinds can be sent.
const PACKAGES: &[(&str, &str)] = &[
    ("core", "v1"),
    ("apps", "apps/v1"),
    ("authentication", "authentication.k8s.io/v1"),
    ("authorization", "authorization.k8s.io/v1"),
    ("autoscaling", "autoscaling/v1"),
    ("coordination", "coordination.k8s.io/v1"),
    ("discovery", "discovery.k8s.io/v1"),
    ("events", "events.k8s.io/v1"),
    ("networking", "networking.k8s.io/v1"),
    ("policy", "policy/v1"),
];

/// What one value is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Text,
    Int,
    Bool,
    Bytes,
    Time,
    MicroTime,
    Quantity,
    IntOrString,
    /// A message around bytes that are JSON.
    Json,
    /// A message around a list of strings.
    Items,
    /// Index of a type.
    Message(usize),
}

/// How often a value can be there, and where.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Shape {
    One,
    List,
    /// Keyed by text.
    Map,
    /// Its fields are the outer object's.
    Inline,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Field {
    pub(super) number: u32,
    /// As in JSON.
    pub(super) name: &'static str,
    pub(super) kind: Kind,
    pub(super) shape: Shape,
    /// Whether JSON leaves out the zero value.
    pub(super) omit_zero: bool,
}

#[derive(Debug)]
pub(super) struct Type {
    package: &'static str,
    /// Go's name, such as `PodSpec`.
    pub(super) name: &'static str,
    /// Whether a body may be of this type.
    is_kind: bool,
    fields: Vec<Field>,
}

impl Type {
    pub(super) fn field(&self, number: u32) -> Option<&Field> {
        self.fields.iter().find(|field| field.number == number)
    }
}

#[derive(Debug, Default)]
pub(super) struct Table {
    pub(super) types: Vec<Type>,
}

/// The table.
pub(super) fn table() -> &'static Table {
    static TABLE: OnceLock<Table> = OnceLock::new();
    TABLE.get_or_init(|| parse(SOURCE).unwrap_or_default())
}

impl Table {
    /// The type of a body; `DeleteOptions` are of every version.
    pub(super) fn kind(&self, api_version: &str, kind: &str) -> Option<&Type> {
        let package =
            PACKAGES.iter().find(|(_, version)| *version == api_version).map(|(package, _)| *package);
        let options = kind == "DeleteOptions" && !api_version.is_empty();
        let package = if options { Some("meta") } else { package };
        self.types.iter().find(|of| of.is_kind && of.name == kind && Some(of.package) == package)
    }

    pub(super) fn at(&self, index: usize) -> &Type {
        static NONE: Type = Type { package: "", name: "", is_kind: false, fields: Vec::new() };
        self.types.get(index).unwrap_or(&NONE)
    }
}

/// Reads the table.
///
/// # Errors
/// The word that is not understood.
fn parse(source: &'static str) -> Result<Table, String> {
    let lines =
        || source.lines().map(str::trim_end).filter(|line| !line.is_empty() && !line.starts_with('#'));
    let heads = lines().filter(|line| !line.starts_with(' '));
    let mut index = BTreeMap::new();
    let mut types = Vec::new();
    for head in heads {
        let (word, full) = head.split_once(' ').ok_or(head)?;
        let (package, name) = full.split_once('.').ok_or(head)?;
        if !matches!(word, "kind" | "type") || index.insert(full, types.len()).is_some() {
            return Err(head.to_owned());
        }
        types.push(Type { package, name, is_kind: word == "kind", fields: Vec::new() });
    }
    let mut current = None;
    for line in lines() {
        if !line.starts_with(' ') {
            current = Some(current.map_or(0, |at: usize| at + 1));
            continue;
        }
        let of = current.and_then(|at| types.get_mut(at)).ok_or(line)?;
        for words in line.split(';').map(str::trim).filter(|words| !words.is_empty()) {
            let field = field(words, &index).ok_or(words)?;
            if of.fields.iter().any(|other| other.number == field.number) {
                return Err(words.to_owned());
            }
            of.fields.push(field);
        }
    }
    Ok(Table { types })
}

fn field(words: &'static str, index: &BTreeMap<&str, usize>) -> Option<Field> {
    let mut words = words.split(' ');
    let (number, name, of) = (words.next()?.parse().ok()?, words.next()?, words.next()?);
    if words.next().is_some() {
        return None;
    }
    let (of, omit_zero) = of.strip_suffix('?').map_or((of, false), |of| (of, true));
    let shapes = [("[]", Shape::List), ("map:", Shape::Map), ("inline:", Shape::Inline)];
    let shaped = shapes.into_iter().find_map(|(prefix, shape)| Some((of.strip_prefix(prefix)?, shape)));
    let (of, shape) = shaped.unwrap_or((of, Shape::One));
    let kind = match of {
        "string" => Kind::Text,
        "int" => Kind::Int,
        "bool" => Kind::Bool,
        "bytes" => Kind::Bytes,
        "time" => Kind::Time,
        "microtime" => Kind::MicroTime,
        "quantity" => Kind::Quantity,
        "intorstring" => Kind::IntOrString,
        "json" => Kind::Json,
        "items:string" => Kind::Items,
        of => Kind::Message(*index.get(of)?),
    };
    Some(Field { number, name, kind, shape, omit_zero })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_line_of_the_file_counts() {
        let table = parse(SOURCE).unwrap();
        let fields: usize = table.types.iter().map(|of| of.fields.len()).sum();
        assert_eq!((table.types.len(), fields), (260, 1065));
        let packages: Vec<_> = PACKAGES.iter().map(|(package, _)| *package).chain(["meta"]).collect();
        for of in &table.types {
            assert!(packages.contains(&of.package), "{}.{}", of.package, of.name);
            let inline = |f: &&Field| f.shape == Shape::Inline;
            assert!(of.fields.iter().filter(inline).all(|f| f.name == "-"), "{}", of.name);
        }
    }

    #[test]
    fn a_line_that_is_not_understood_is_an_error() {
        for wrong in [
            "kind v1",
            "sort core.A",
            "  1 a int",
            "type core.A\n  1 a core.B",
            "type core.A\n  1 a int more",
            "type core.A\n  1 a int; 1 b int",
            "type core.A\ntype core.A",
        ] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }
}
