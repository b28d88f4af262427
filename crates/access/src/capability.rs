//! Capabilities: which operations on which resources (contract §4.5).

use std::collections::{BTreeMap, btree_map};
use std::fmt;
use std::str::FromStr;

use serde_json::Value;

use crate::error::excerpt;
use crate::name::{NameFault, Parts};
use crate::operation::{Operation, Operations};
use crate::pattern::Pattern;

/// The longest text of a capability, in bytes: it travels inside tokens, and those in URLs.
pub const CAPABILITY_BYTES_MAX: usize = 16 * 1024;
/// The most resources that a capability may name. Intersecting two costs the product, and only
/// patterns with wildcards in the middle, which overlap each with each, can yield more than went in.
pub const RESOURCES_MAX: usize = 256;

/// Why a text is no capability; 40000 with status 400 on the wire.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CapabilityError {
    /// Neither the text nor the value is a JSON object of arrays of strings.
    #[error("a capability is a JSON object from resources to lists of operations")]
    NotAnObjectOfLists,
    /// The text is longer than [`CAPABILITY_BYTES_MAX`].
    #[error("the capability has {bytes} bytes, more than {CAPABILITY_BYTES_MAX}")]
    TooLong {
        /// Length of the text.
        bytes: usize,
    },
    /// More resources than [`RESOURCES_MAX`].
    #[error("the capability names more than {RESOURCES_MAX} resources")]
    TooManyResources,
    /// A resource cannot be read.
    #[error("the resource {resource:?} is malformed: {fault}")]
    MalformedResource {
        /// The resource as written, cut after 128 characters.
        resource: String,
        /// What is wrong with it.
        #[source]
        fault: NameFault,
    },
    /// An operation does not exist.
    #[error("the operation {operation:?} on {resource:?} is unknown")]
    UnknownOperation {
        /// The resource as written, cut after 128 characters.
        resource: String,
        /// The operation as written, cut likewise.
        operation: String,
    },
    /// A resource has an empty list of operations.
    #[error("the resource {resource:?} has no operations")]
    NoOperations {
        /// The resource as written, cut after 128 characters.
        resource: String,
    },
    /// `*` stands beside other operations, which Ably refuses as contradictory.
    #[error("the resource {resource:?} has other operations beside \"*\"")]
    WildcardNotAlone {
        /// The resource as written, cut after 128 characters.
        resource: String,
    },
}

/// What a key or token may do: resource patterns with operations.
///
/// The text form is canonical: resources sorted, operations sorted, channel params left out.
/// `Display` writes it and [`Capability::parse`] reads it back to an equal value.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Capability {
    /// By the pattern's canonical text.
    grants: BTreeMap<Box<str>, Grant>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Grant {
    pattern: Pattern,
    operations: Operations,
}

impl Capability {
    /// The capability `{"[*]*":["*"]}`: everything, metachannels included. It is the identity of
    /// [`Capability::intersection`].
    pub fn everything() -> Self {
        let pattern = Pattern::parse("[*]*").expect("the pattern of everything is well formed");
        let mut grants = BTreeMap::new();
        grants.insert(
            "[*]*".into(),
            Grant {
                pattern,
                operations: Operations::EVERY,
            },
        );
        Self { grants }
    }

    /// Reads the JSON text of a capability, such as `{"room:*":["subscribe","presence"]}`.
    ///
    /// # Errors
    /// Names the resource or operation that is wrong. Resources that differ only in channel params
    /// are one and the same; their operations add up.
    pub fn parse(text: &str) -> Result<Self, CapabilityError> {
        if text.len() > CAPABILITY_BYTES_MAX {
            return Err(CapabilityError::TooLong { bytes: text.len() });
        }
        let value = serde_json::from_str(text).map_err(|_| CapabilityError::NotAnObjectOfLists)?;
        Self::from_object(&value)
    }

    /// Reads a capability that is either a JSON object or a string that holds the text of one, as
    /// both are found in the wild.
    ///
    /// # Errors
    /// As [`Capability::parse`].
    pub fn from_value(value: &Value) -> Result<Self, CapabilityError> {
        match value {
            Value::String(text) => Self::parse(text),
            Value::Object(_) => Self::from_object(value)?.checked(),
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::Array(_) => {
                Err(CapabilityError::NotAnObjectOfLists)
            }
        }
    }

    fn from_object(value: &Value) -> Result<Self, CapabilityError> {
        let Value::Object(object) = value else {
            return Err(CapabilityError::NotAnObjectOfLists);
        };
        if object.len() > RESOURCES_MAX {
            return Err(CapabilityError::TooManyResources);
        }
        let mut capability = Self::default();
        for (resource, names) in object {
            let pattern =
                Pattern::parse(resource).map_err(|fault| CapabilityError::MalformedResource {
                    resource: excerpt(resource),
                    fault,
                })?;
            capability.grant(pattern, parse_operations(resource, names)?);
        }
        Ok(capability)
    }

    /// Refuses what [`Capability::parse`] could not read back: tokens carry the text.
    fn checked(self) -> Result<Self, CapabilityError> {
        let bytes = self.to_string().len();
        if bytes > CAPABILITY_BYTES_MAX {
            return Err(CapabilityError::TooLong { bytes });
        }
        Ok(self)
    }

    fn grant(&mut self, pattern: Pattern, operations: Operations) {
        match self.grants.entry(pattern.to_string().into()) {
            btree_map::Entry::Vacant(entry) => {
                entry.insert(Grant {
                    pattern,
                    operations,
                });
            }
            btree_map::Entry::Occupied(mut entry) => {
                let grant = entry.get_mut();
                grant.operations = grant.operations.union(operations);
            }
        }
    }

    /// True if nothing is granted on anything.
    pub fn is_empty(&self) -> bool {
        self.grants.is_empty()
    }

    /// The number of resources named.
    pub fn len(&self) -> usize {
        self.grants.len()
    }

    /// True if the capability names this very resource, wildcards taken literally.
    pub fn names_resource(&self, resource: &str) -> bool {
        Pattern::parse(resource)
            .is_ok_and(|pattern| self.grants.contains_key(pattern.to_string().as_str()))
    }

    /// All that is granted on a concrete resource: a channel (`room:1`, `[meta]log`, channel params
    /// allowed and ignored) or the `*` of app-wide operations. Nothing on what cannot be read.
    pub fn operations_on(&self, resource: &str) -> Operations {
        let Ok(parts) = Parts::split(resource) else {
            return Operations::NONE;
        };
        let granted = self
            .grants
            .values()
            .filter(|grant| grant.pattern.matches(&parts))
            .fold(Operations::NONE, |all, grant| all.union(grant.operations));
        if parts.qualifier == Some("meta") {
            granted.intersection(Operations::ON_METACHANNELS)
        } else {
            granted
        }
    }

    /// True if the operation is granted on the concrete resource.
    pub fn permits(&self, operation: Operation, resource: &str) -> bool {
        self.operations_on(resource).contains(operation)
    }

    /// True if one resource of the capability grants the operation on every channel whose name
    /// begins with the prefix. The empty prefix is all normal channels, `[meta]` all metachannels.
    pub fn permits_prefix(&self, operation: Operation, prefix: &str) -> bool {
        let parts = Parts::split_prefix(prefix).ok();
        let metachannels = parts.is_none_or(|parts| parts.qualifier == Some("meta"));
        if metachannels && !Operations::ON_METACHANNELS.contains(operation) {
            return false;
        }
        self.grants.values().any(|grant| {
            grant.operations.contains(operation) && grant.pattern.covers_prefix(parts.as_ref())
        })
    }

    /// What both capabilities permit: for every concrete resource and operation the result permits
    /// it exactly if both do.
    ///
    /// # Errors
    /// [`CapabilityError::TooManyResources`] or [`CapabilityError::TooLong`] if the result would be
    /// beyond the bounds that [`Capability::parse`] sets.
    pub fn intersection(&self, other: &Self) -> Result<Self, CapabilityError> {
        let mut both = Self::default();
        for one in self.grants.values() {
            for two in other.grants.values() {
                let operations = one.operations.intersection(two.operations);
                if operations.is_empty() {
                    continue;
                }
                let Some(pattern) = one.pattern.intersection(&two.pattern) else {
                    continue;
                };
                both.grant(pattern, operations);
                if both.grants.len() > RESOURCES_MAX {
                    return Err(CapabilityError::TooManyResources);
                }
            }
        }
        both.checked()
    }
}

fn parse_operations(resource: &str, names: &Value) -> Result<Operations, CapabilityError> {
    let Value::Array(names) = names else {
        return Err(CapabilityError::NotAnObjectOfLists);
    };
    let mut operations = Operations::NONE;
    for name in names {
        let Value::String(name) = name else {
            return Err(CapabilityError::NotAnObjectOfLists);
        };
        if name == "*" {
            if names.len() > 1 {
                return Err(CapabilityError::WildcardNotAlone {
                    resource: excerpt(resource),
                });
            }
            return Ok(Operations::EVERY);
        }
        let operation =
            Operation::from_name(name).ok_or_else(|| CapabilityError::UnknownOperation {
                resource: excerpt(resource),
                operation: excerpt(name),
            })?;
        operations = operations.with(operation);
    }
    if operations.is_empty() {
        return Err(CapabilityError::NoOperations {
            resource: excerpt(resource),
        });
    }
    Ok(operations)
}

impl FromStr for Capability {
    type Err = CapabilityError;

    fn from_str(text: &str) -> Result<Self, CapabilityError> {
        Self::parse(text)
    }
}

impl fmt::Display for Capability {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: BTreeMap<&str, Vec<&str>> = self
            .grants
            .iter()
            .map(|(resource, grant)| (&**resource, grant.operations.names()))
            .collect();
        f.write_str(&serde_json::to_string(&names).map_err(|_| fmt::Error)?)
    }
}
