//! The scopes of the stores that are compared.

/// Whatever goes wrong ends the run.
pub type Answer<T> = Result<T, Box<dyn std::error::Error + Send + Sync>>;

/// Which of the store's two scopes. keystead gets its [`keystead::Scope`], the others the number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum Place {
    /// The scope that holds all the keys of the run.
    Large = 1,
    /// A scope that holds 1,000 keys, whatever the other holds.
    Small = 2,
}

impl Place {
    /// Both, in the order in which they are loaded.
    #[cfg(test)]
    pub const ALL: [Self; 2] = [Self::Large, Self::Small];
    /// The id of the domain, the same for both.
    pub const DOMAIN: &str = "3bab8e245e854f68af5967c00dd43127";

    /// The id of the project.
    pub fn project(self) -> &'static str {
        match self {
            Self::Large => "0d0466b0e7274d9cb35df84bb474a37f",
            Self::Small => "5f6c8e1b2a7d4c03b9e0d1f2a3b4c5d6",
        }
    }

    /// The number that stands for the scope in the addresses of the peers.
    pub fn number(self) -> u32 {
        self as u32
    }
}
