//! Where the kernel calls the chains of the table.

/// Where the kernel calls a base chain. All accept what they do not decide.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hook {
    /// Kind of chain.
    pub kind: HookKind,
    /// Point on a packet's way.
    pub point: HookPoint,
    /// Order among chains at the same point.
    pub priority: i32,
}

/// Kinds of base chains.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the kernel's words")]
pub enum HookKind {
    Nat,
    Filter,
    Route,
}

impl HookKind {
    /// The kernel's name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Nat => "nat",
            Self::Filter => "filter",
            Self::Route => "route",
        }
    }
}

/// Points on a packet's way where our base chains are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the kernel's words")]
pub enum HookPoint {
    Prerouting,
    Output,
    Postrouting,
}

impl HookPoint {
    /// The kernel's number.
    pub fn number(self) -> u32 {
        match self {
            Self::Prerouting => 0,
            Self::Output => 3,
            Self::Postrouting => 4,
        }
    }

    /// nft's name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Prerouting => "prerouting",
            Self::Output => "output",
            Self::Postrouting => "postrouting",
        }
    }
}
