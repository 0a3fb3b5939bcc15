use super::*;

fn refused(pickle: &[u8]) -> String {
    read(pickle).unwrap_err().to_string()
}

#[test]
fn a_dictionary_is_read_and_its_memo_too() {
    let object =
        read(b"\x80\x02}q\x00(X\x01\0\0\0aq\x01K\x07X\x01\0\0\0b\x8a\x01\xffh\x01]K\x05au.").unwrap();
    assert_eq!(object.entry("b").and_then(Object::size), None, "it is negative");
    let list = object.entry("a").unwrap();
    assert_eq!(
        list.sequence()[0].size(),
        Some(5),
        "the last value of a key counts"
    );
}

#[test]
fn lengths_numbers_and_counts_of_a_file_are_not_believed() {
    assert!(refused(b"X\xff\xff\xff\xff").contains("cut off"));
    assert!(refused(&[&b"\x8a\x28"[..], &[1; 40], b"."].concat()).contains("40 bytes"));
    assert!(refused(b"K\x01\x87.").contains("more objects than it made"));
    assert!(refused(b"K\x01t.").contains("lacks a mark"));
    assert!(refused(b"h\x05.").contains("did not make"));
    assert!(refused(b"(K\x01K\x02K\x03d.").contains("key without a value"));
}

#[test]
fn what_is_nested_deeply_is_refused() {
    assert!(refused(&[&b"K\x01"[..], &[0x85; 100], b"."].concat()).contains("levels deep"));
    let lists = [&b"]q\x00"[..], &b"](h\x00eq\x00".repeat(100), b"."].concat();
    assert!(refused(&lists).contains("levels deep"));
}

#[test]
fn a_small_pickle_cannot_become_a_large_object() {
    // Each round copies the list, which the memo keeps, and doubles it.
    let doubled = [&b"]K\x01a"[..], &b"q\x00(h\x00h\x00h\x00e".repeat(5000), b"."].concat();
    assert!(refused(&doubled).contains("levels deep"));
    let copied = [
        &b"](K\x01K\x01K\x01K\x01e"[..],
        &b"q\x00K\x01a".repeat(5000),
        b".",
    ]
    .concat();
    assert!(refused(&copied).contains("more than"));
}
