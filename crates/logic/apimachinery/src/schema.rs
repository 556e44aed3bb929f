//! The schemas of the served kinds, read once from the committed OpenAPI documents.
//!
//! In: `api/openapi/*.json`, embedded. Out: the documents themselves, for `/openapi/v3`; [`validate`], the strict
//! decoding of an object in Kubernetes' words; and, for patches, how the lists of each kind merge.
//!
//! Invariant: a kind of [`crate::resource::RESOURCES`] always has a schema (a test holds this); should one be
//! missing, its objects are refused, never waved through.

mod validate;

pub use validate::{Fault, FieldProblem, PROBLEMS_MAX, refusal, validate, validate_named};

use crate::resource::Resource;
use serde::Deserialize;
use std::{collections::BTreeMap, sync::OnceLock};

/// An OpenAPI v3 document as it is served.
#[derive(Debug)]
pub struct Document {
    /// Path below `/openapi/v3/`, such as `api/v1` or `apis/discovery.k8s.io/v1`.
    pub path: &'static str,
    /// Changes when the bytes change; the `hash` parameter of the index.
    pub hash: String,
    /// The JSON text.
    pub bytes: &'static [u8],
}

/// A document and its file's name: slashes are two underscores there.
macro_rules! document {
    ($path:literal, $file:literal) => {
        ($path, include_bytes!(concat!("../../../../api/openapi/", $file, ".json")).as_slice())
    };
}

const SOURCES: &[(&str, &[u8])] = &[
    document!(".well-known/openid-configuration", ".well-known__openid-configuration"),
    document!("api", "api"),
    document!("api/v1", "api__v1"),
    document!("apis", "apis"),
    document!("apis/apps", "apis__apps"),
    document!("apis/apps/v1", "apis__apps__v1"),
    document!("apis/authentication.k8s.io", "apis__authentication.k8s.io"),
    document!("apis/authentication.k8s.io/v1", "apis__authentication.k8s.io__v1"),
    document!("apis/authorization.k8s.io", "apis__authorization.k8s.io"),
    document!("apis/authorization.k8s.io/v1", "apis__authorization.k8s.io__v1"),
    document!("apis/coordination.k8s.io", "apis__coordination.k8s.io"),
    document!("apis/coordination.k8s.io/v1", "apis__coordination.k8s.io__v1"),
    document!("apis/discovery.k8s.io", "apis__discovery.k8s.io"),
    document!("apis/discovery.k8s.io/v1", "apis__discovery.k8s.io__v1"),
    document!("apis/events.k8s.io", "apis__events.k8s.io"),
    document!("apis/events.k8s.io/v1", "apis__events.k8s.io__v1"),
    document!("apis/networking.k8s.io", "apis__networking.k8s.io"),
    document!("apis/networking.k8s.io/v1", "apis__networking.k8s.io__v1"),
    document!("openid/v1/jwks", "openid__v1__jwks"),
    document!("version", "version"),
];

/// Every OpenAPI v3 document, one a group and version and a few of discovery, sorted by path.
pub fn documents() -> &'static [Document] {
    static DOCUMENTS: OnceLock<Vec<Document>> = OnceLock::new();
    DOCUMENTS.get_or_init(|| {
        SOURCES
            .iter()
            .map(|(path, bytes)| Document { path, hash: format!("{:016X}", fnv1a(bytes)), bytes })
            .collect()
    })
}

/// FNV-1a: tells versions of a document apart for caches; no one is kept from forging it.
fn fnv1a(bytes: &[u8]) -> u64 {
    bytes
        .iter()
        .fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
}

/// What a value must look like.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Shape {
    /// A struct: index of its type.
    Struct(usize),
    /// An object with any keys and values of one shape.
    Map(Box<Shape>),
    /// A list of values of one shape.
    List(Box<Shape>),
    /// Text.
    Text,
    /// Base64 text.
    Bytes,
    /// RFC 3339 time.
    Time,
    /// Whole number of 32 bits.
    Int32,
    /// Whole number of 64 bits.
    Int64,
    /// Any number.
    Number,
    /// True or false.
    Bool,
    /// Text or a whole number of 32 bits.
    IntOrString,
    /// `resource.Quantity`.
    Quantity,
    /// Not looked at.
    Any,
}

/// How strategic merge patches treat a field (`patchStrategy`, `patchMergeKey`, `listMapKey`).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Merging {
    /// Lists are merged, by `keys` if there are any, else as sets.
    pub merge: bool,
    /// The key of strategic merge patches first, then the further ones that tell items apart.
    pub keys: Vec<String>,
    /// Defaults of those further keys.
    pub defaults: BTreeMap<String, serde_json::Value>,
}

/// Who owns the parts of a field when it is applied (`x-kubernetes-list-type`, `x-kubernetes-map-type`).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) enum Topology {
    /// Each field or entry has its own owners. A list that says nothing is atomic all the same.
    #[default]
    Granular,
    /// The whole value has its owners.
    Atomic,
    /// A list, each value of which has its owners.
    Set,
    /// A list of objects told apart by these keys, with their defaults.
    Keyed(Vec<(String, Option<serde_json::Value>)>),
}

#[derive(Clone, Debug)]
pub(crate) struct Field {
    pub shape: Shape,
    pub merging: Merging,
    pub topology: Topology,
}

/// A struct of the API.
#[derive(Clone, Debug)]
pub(crate) struct Type {
    /// Go's name, such as `ServiceSpec`.
    pub name: String,
    /// Go's package, such as `v1`.
    pub package: String,
    pub fields: BTreeMap<String, Field>,
    /// Whether its fields have their owners together.
    pub atomic: bool,
}

/// Every type, and where to find those of a kind.
#[derive(Debug, Default)]
pub(crate) struct Schemas {
    pub types: Vec<Type>,
    kinds: BTreeMap<(String, String, String), usize>,
    names: BTreeMap<String, usize>,
}

impl Schemas {
    /// The type of a kind.
    pub fn of(&self, resource: &Resource) -> Option<usize> {
        let key = (resource.group.to_owned(), resource.version.to_owned(), resource.kind.to_owned());
        self.kinds.get(&key).copied()
    }

    /// The type of a name, such as `io.k8s.apimachinery.pkg.apis.meta.v1.DeleteOptions`.
    pub fn named(&self, name: &str) -> Option<usize> {
        self.names.get(name).copied()
    }

    /// A field of a shape, if it is a struct that has the field or a map.
    pub fn child(&self, shape: &Shape, name: &str) -> Option<Field> {
        match shape {
            Shape::Struct(id) => self.types.get(*id)?.fields.get(name).cloned(),
            Shape::Map(value) => Some(Field {
                shape: (**value).clone(),
                merging: Merging::default(),
                topology: Topology::default(),
            }),
            _ => None,
        }
    }
}

/// The parsed schemas; parsing happens at the first call.
pub(crate) fn schemas() -> &'static Schemas {
    static SCHEMAS: OnceLock<Schemas> = OnceLock::new();
    SCHEMAS.get_or_init(|| {
        let mut schemas = Schemas::default();
        for (_, bytes) in SOURCES {
            // The documents are part of the program; one that does not parse leaves its kinds without a schema.
            if let Ok(document) = serde_json::from_slice::<RawDocument>(bytes) {
                Reader { raw: &document.components.schemas, into: &mut schemas }.read();
            }
        }
        schemas
    })
}

#[derive(Deserialize)]
struct RawDocument {
    components: RawComponents,
}

#[derive(Deserialize)]
struct RawComponents {
    schemas: BTreeMap<String, Raw>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct Raw {
    #[serde(rename = "$ref")]
    reference: Option<String>,
    all_of: Vec<Raw>,
    one_of: Vec<serde::de::IgnoredAny>,
    #[serde(rename = "type")]
    kind: String,
    format: String,
    properties: Option<BTreeMap<String, Raw>>,
    additional_properties: Option<Box<Raw>>,
    items: Option<Box<Raw>>,
    default: Option<serde_json::Value>,
    #[serde(rename = "x-kubernetes-patch-strategy")]
    strategy: String,
    #[serde(rename = "x-kubernetes-patch-merge-key")]
    merge_key: Option<String>,
    #[serde(rename = "x-kubernetes-list-map-keys")]
    map_keys: Vec<String>,
    #[serde(rename = "x-kubernetes-list-type")]
    list_type: String,
    #[serde(rename = "x-kubernetes-map-type")]
    map_type: String,
    #[serde(rename = "x-kubernetes-group-version-kind")]
    kinds: Vec<RawKind>,
}

#[derive(Deserialize)]
struct RawKind {
    group: String,
    version: String,
    kind: String,
}

struct Reader<'a> {
    raw: &'a BTreeMap<String, Raw>,
    into: &'a mut Schemas,
}

impl Reader<'_> {
    fn read(mut self) {
        for (name, raw) in self.raw {
            let Some(id) = self.struct_of(name) else { continue };
            for kind in &raw.kinds {
                self.into.kinds.insert((kind.group.clone(), kind.version.clone(), kind.kind.clone()), id);
            }
        }
    }

    /// The type of a named schema with fields, read at the first call. Documents share the types they repeat.
    fn struct_of(&mut self, name: &str) -> Option<usize> {
        if let Some(id) = self.into.names.get(name) {
            return Some(*id);
        }
        let raw = self.raw.get(name)?;
        let (properties, atomic) = (raw.properties.as_ref()?, raw.map_type == "atomic");
        let id = self.into.types.len();
        let mut parts = name.rsplit('.');
        let go_name = parts.next().unwrap_or_default().to_owned();
        let package = parts.next().unwrap_or_default().to_owned();
        self.into.types.push(Type { name: go_name, package, fields: BTreeMap::new(), atomic });
        self.into.names.insert(name.to_owned(), id);
        let fields: BTreeMap<String, Field> =
            properties.iter().map(|(name, raw)| (name.clone(), self.field(raw))).collect();
        self.into.types[id].fields = fields;
        Some(id)
    }

    fn field(&mut self, raw: &Raw) -> Field {
        let shape = self.shape(raw);
        let mut keys: Vec<String> = raw.merge_key.iter().cloned().collect();
        keys.extend(raw.map_keys.iter().filter(|key| Some(*key) != raw.merge_key.as_ref()).cloned());
        let item = raw.items.as_deref().and_then(target).and_then(|name| self.raw.get(name));
        let default_of = |key: &String| item?.properties.as_ref()?.get(key)?.default.clone();
        let defaults = keys.iter().filter_map(|key| Some((key.clone(), default_of(key)?))).collect();
        let topology = match (raw.list_type.as_str(), raw.map_type.as_str()) {
            ("set", _) => Topology::Set,
            ("map", _) => {
                Topology::Keyed(raw.map_keys.iter().map(|key| (key.clone(), default_of(key))).collect())
            }
            ("atomic", _) | (_, "atomic") => Topology::Atomic,
            _ => Topology::Granular,
        };
        let merge = raw.strategy.split(',').any(|word| word == "merge");
        Field { shape, merging: Merging { merge, keys, defaults }, topology }
    }

    fn shape(&mut self, raw: &Raw) -> Shape {
        if let Some(name) = target(raw) {
            if let Some(id) = self.struct_of(name) {
                return Shape::Struct(id);
            }
            return self.raw.get(name).map_or(Shape::Any, |raw| self.shape(raw));
        }
        match (raw.kind.as_str(), raw.format.as_str()) {
            ("string", "byte") => Shape::Bytes,
            ("string", "date-time") => Shape::Time,
            ("string", _) => Shape::Text,
            ("integer", "int32") => Shape::Int32,
            ("integer", _) => Shape::Int64,
            ("number", _) => Shape::Number,
            ("boolean", _) => Shape::Bool,
            ("array", _) => {
                Shape::List(Box::new(raw.items.as_deref().map_or(Shape::Any, |items| self.shape(items))))
            }
            ("object", _) => raw
                .additional_properties
                .as_deref()
                .map_or(Shape::Any, |values| Shape::Map(Box::new(self.shape(values)))),
            (_, "int-or-string") => Shape::IntOrString,
            _ if raw.one_of.len() == 2 => Shape::Quantity,
            _ => Shape::Any,
        }
    }
}

/// The schema that a reference, bare or in `allOf`, names.
fn target(raw: &Raw) -> Option<&str> {
    let reference = raw.reference.as_deref().or_else(|| raw.all_of.first()?.reference.as_deref())?;
    reference.strip_prefix("#/components/schemas/")
}

#[cfg(test)]
mod tests;
