//! Values that carry their type, as D-Bus has types.

/// A value of any of the format's basic types, or a list of such.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Typed {
    Byte(u8),
    Int16(i16),
    Uint16(u16),
    Int32(i32),
    Uint32(u32),
    Int64(i64),
    Uint64(u64),
    /// The bits of an `f64`.
    Double(u64),
    Bool(bool),
    Text(String),
    Path(String),
    Signature(String),
    List {
        /// The signature of each.
        element: String,
        items: Vec<Typed>,
    },
}

impl Typed {
    pub fn signature(&self) -> String {
        match self {
            Typed::Byte(_) => "y".into(),
            Typed::Int16(_) => "n".into(),
            Typed::Uint16(_) => "q".into(),
            Typed::Int32(_) => "i".into(),
            Typed::Uint32(_) => "u".into(),
            Typed::Int64(_) => "x".into(),
            Typed::Uint64(_) => "t".into(),
            Typed::Double(_) => "d".into(),
            Typed::Bool(_) => "b".into(),
            Typed::Text(_) => "s".into(),
            Typed::Path(_) => "o".into(),
            Typed::Signature(_) => "g".into(),
            Typed::List { element, .. } => format!("a{element}"),
        }
    }
}

/// To what a value of a signature is padded.
pub fn alignment(signature: &str) -> usize {
    match signature.as_bytes().first() {
        Some(b'n' | b'q') => 2,
        Some(b'x' | b't' | b'd') => 8,
        Some(b'y' | b'g') => 1,
        _ => 4,
    }
}
