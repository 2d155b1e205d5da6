//! The style in which MAKEFLAGS names a pool of ours.

/// How MAKEFLAGS names a pool.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Style {
    /// By its fifo: for make 4.4 and later, cargo and ninja.
    Fifo,
    /// By descriptors that programs below must inherit: for every make, and cargo.
    Pipe,
    /// By its fifo, and for make by descriptors: for every program, if it inherits them.
    Both,
}

impl Style {
    pub(crate) fn to_word(self) -> u64 {
        match self {
            Style::Fifo => 0,
            Style::Pipe => 1,
            Style::Both => 2,
        }
    }

    pub(crate) fn from_word(word: u64) -> Style {
        match word {
            1 => Style::Pipe,
            2 => Style::Both,
            _ => Style::Fifo,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_style_is_known_by_its_word() {
        for style in [Style::Fifo, Style::Pipe, Style::Both] {
            assert_eq!(Style::from_word(style.to_word()), style);
        }
    }
}
