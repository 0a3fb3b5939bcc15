//! Types that have one text form: the error of a text that is not of that form, and serde, which writes such
//! a type as its text everywhere, on the wire and in files.

/// A text that is not of the form that its type requires.
#[derive(Debug, thiserror::Error)]
#[error("`{text}` is not a {what}")]
pub struct InvalidText {
    what: &'static str,
    text: String,
}

impl InvalidText {
    /// Names what the text should be, as in "`text` is not a `what`".
    pub(crate) fn new(what: &'static str, text: &str) -> Self {
        let text = text.to_owned();
        Self { what, text }
    }
}

/// Implements serde's traits for a type that implements `Display` and `FromStr`.
macro_rules! serde_as_text {
    ($type:ty) => {
        impl serde::Serialize for $type {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> serde::Deserialize<'de> for $type {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = <String as serde::Deserialize>::deserialize(deserializer)?;
                text.parse().map_err(serde::de::Error::custom)
            }
        }
    };
}
pub(crate) use serde_as_text;
