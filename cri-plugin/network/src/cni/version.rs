//! The versions of CNI that are spoken.

use std::fmt;

/// Each released version; they compare by age.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Version {
    V010,
    V020,
    V030,
    V031,
    V040,
    V100,
    V110,
}

impl Version {
    pub const ALL: [Self; 7] =
        [Self::V010, Self::V020, Self::V030, Self::V031, Self::V040, Self::V100, Self::V110];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::V010 => "0.1.0",
            Self::V020 => "0.2.0",
            Self::V030 => "0.3.0",
            Self::V031 => "0.3.1",
            Self::V040 => "0.4.0",
            Self::V100 => "1.0.0",
            Self::V110 => "1.1.0",
        }
    }

    /// Nothing at all means the first version, as the specification has it.
    pub fn parse(text: &str) -> Option<Self> {
        match text {
            "" => Some(Self::V010),
            text => Self::ALL.into_iter().find(|version| version.as_str() == text),
        }
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
