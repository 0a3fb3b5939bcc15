//! Tags say what a worker is good for or where it stands, and which of that a job needs: a job that needs tags is only
//! given to workers that have all of them. What a tag means is up to whoever runs the farm.

use std::fmt;
use std::str::FromStr;

use serde::de::{Error as _, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};

use crate::text::{InvalidText, serde_as_text};

/// A word of 1 to 32 characters of a-z, 0-9, `_` and `-`, of which the first is a letter or a digit. It is a part of the
/// names of queues, and therefore has neither dots nor wildcards.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Tag([u8; Tag::MAX_BYTES]);
serde_as_text!(Tag);

impl Tag {
    /// The most characters of a tag.
    pub const MAX_BYTES: usize = 32;

    /// Returns the text of the tag.
    pub fn as_str(&self) -> &str {
        // What follows the text is zero.
        let end = self.0.iter().position(|byte| *byte == 0);
        let text = &self.0[..end.unwrap_or(Self::MAX_BYTES)];
        std::str::from_utf8(text).unwrap_or_default()
    }
}

impl fmt::Display for Tag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl fmt::Debug for Tag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Tag({})", self.as_str())
    }
}

impl FromStr for Tag {
    type Err = InvalidText;

    fn from_str(text: &str) -> Result<Self, InvalidText> {
        let is_word = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
        let is_inner = |byte: u8| is_word(byte) || byte == b'_' || byte == b'-';
        let mut bytes = [0; Self::MAX_BYTES];
        match bytes.get_mut(..text.len()) {
            Some(place) if text.bytes().next().is_some_and(is_word) && text.bytes().all(is_inner) => {
                place.copy_from_slice(text.as_bytes());
                Ok(Self(bytes))
            }
            _ => Err(InvalidText::new(
                "tag (1 to 32 of a-z, 0-9, _ and -, beginning with a letter or a digit)",
                text,
            )),
        }
    }
}

/// More tags than a set may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0} tags are more than the {max} that there may be", max = Tags::MOST)]
pub struct TooManyTags(usize);

/// A set of at most [`Tags::MOST`] tags: those of a worker, or those that a job needs. Its text form is a list, `eu, nvenc`.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct Tags(
    /// Sorted, and each of them once.
    Vec<Tag>,
);

impl Tags {
    /// The set without a tag.
    pub const NONE: Self = Self(Vec::new());
    /// The most tags of a set.
    pub const MOST: usize = 16;

    /// Makes a set of these tags. A tag that is named twice counts once.
    ///
    /// # Errors
    /// If there are more than [`Tags::MOST`].
    pub fn new(tags: impl IntoIterator<Item = Tag>) -> Result<Self, TooManyTags> {
        let mut tags: Vec<Tag> = tags.into_iter().collect();
        tags.sort_unstable();
        tags.dedup();
        if tags.len() > Self::MOST {
            return Err(TooManyTags(tags.len()));
        }
        Ok(Self(tags))
    }

    /// Whether there is no tag in the set.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Iterates over the tags in order.
    pub fn iter(&self) -> impl Iterator<Item = Tag> {
        self.0.iter().copied()
    }

    /// Returns the first tag in order, whose queues the tasks of a job that needs these tags are in; `None` for an empty
    /// set.
    pub fn first(&self) -> Option<Tag> {
        self.0.first().copied()
    }

    /// Whether the tag is in the set.
    pub fn contains(&self, tag: Tag) -> bool {
        self.0.binary_search(&tag).is_ok()
    }

    /// Whether a worker with these tags has all that are `needed`.
    pub fn cover(&self, needed: &Self) -> bool {
        needed.iter().all(|tag| self.contains(tag))
    }
}

impl From<Option<Tag>> for Tags {
    fn from(tag: Option<Tag>) -> Self {
        Self(tag.into_iter().collect())
    }
}

impl fmt::Display for Tags {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (place, tag) in self.iter().enumerate() {
            let separator = if place == 0 { "" } else { ", " };
            write!(f, "{separator}{tag}")?;
        }
        Ok(())
    }
}

impl<'de> Deserialize<'de> for Tags {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_seq(TagsVisitor)
    }
}

/// Reads a set, and no further than a set may go on.
struct TagsVisitor;

impl<'de> Visitor<'de> for TagsVisitor {
    type Value = Tags;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "at most {} tags", Tags::MOST)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut tags: A) -> Result<Tags, A::Error> {
        let mut found = Vec::new();
        while let Some(tag) = tags.next_element()? {
            if found.len() == Tags::MOST {
                return Err(A::Error::invalid_length(found.len() + 1, &self));
            }
            found.push(tag);
        }
        Tags::new(found).map_err(A::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn tags(list: &[&str]) -> Tags {
        Tags::new(list.iter().map(|text| text.parse().unwrap())).unwrap()
    }

    #[test]
    fn a_tag_is_a_short_word() {
        for text in ["a", "0", "eu", "eu-west_1", &"x".repeat(32), "k00000000", "p1"] {
            assert_eq!(text.parse::<Tag>().unwrap().as_str(), text);
        }
        let long = "x".repeat(33);
        for text in [
            "", "-eu", "_eu", "EU", "e u", "e.u", "e,u", "e+u", "e*", ">", "eü", "e\0", &long,
        ] {
            let refused = text.parse::<Tag>().unwrap_err().to_string();
            assert!(refused.contains("is not a tag"), "{refused}");
        }
    }

    #[test]
    fn a_set_is_sorted_and_has_each_tag_once() {
        let set = tags(&["nvenc", "eu", "nvenc"]);
        assert_eq!(
            (set.to_string().as_str(), set.first()),
            ("eu, nvenc", Some("eu".parse().unwrap()))
        );
        assert_eq!(set, tags(&["eu", "nvenc"]));
        assert!(set.cover(&tags(&["nvenc"])) && set.cover(&Tags::default()) && set.cover(&set));
        assert!(!set.cover(&tags(&["eu", "us"])) && !Tags::default().cover(&tags(&["eu"])));
        assert!(set.contains("eu".parse().unwrap()) && !set.contains("e".parse().unwrap()));
    }

    #[test]
    fn more_tags_than_a_set_may_have_are_refused_wherever_they_come_from() {
        let names: Vec<String> = (0..=Tags::MOST).map(|number| format!("t{number}")).collect();
        let parsed = |count: usize| names[..count].iter().map(|name| name.parse::<Tag>().unwrap());
        assert_eq!(Tags::new(parsed(Tags::MOST)).unwrap().iter().count(), Tags::MOST);
        assert_eq!(
            Tags::new(parsed(Tags::MOST + 1)),
            Err(TooManyTags(Tags::MOST + 1))
        );
        let json = |count: usize| serde_json::to_string(&names[..count]).unwrap();
        assert!(serde_json::from_str::<Tags>(&json(Tags::MOST)).is_ok());
        let refused = serde_json::from_str::<Tags>(&json(Tags::MOST + 1)).unwrap_err();
        assert!(refused.to_string().contains("at most 16 tags"), "{refused}");
        // The same one again and again is no way around the limit.
        let repeated = serde_json::to_string(&vec!["t"; 1000]).unwrap();
        assert!(serde_json::from_str::<Tags>(&repeated).is_err());
    }

    proptest! {
        #[test]
        fn tags_are_read_from_their_text_and_in_the_order_of_it(
            one in "[a-z0-9][a-z0-9_-]{0,31}",
            other in "[a-z0-9][a-z0-9_-]{0,31}",
        ) {
            let (first, second): (Tag, Tag) = (one.parse().unwrap(), other.parse().unwrap());
            prop_assert_eq!(first.to_string(), one.clone());
            prop_assert_eq!(first.cmp(&second), one.cmp(&other));
            let set = Tags::new([first, second]).unwrap();
            let bytes = serde_json::to_vec(&set).unwrap();
            prop_assert_eq!(serde_json::from_slice::<Tags>(&bytes).unwrap(), set);
        }
    }
}
