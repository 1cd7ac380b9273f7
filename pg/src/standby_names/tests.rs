//! Tests of `synchronous_standby_names`.

use super::*;
use proptest::prelude::*;

fn parse(text: &str) -> StandbyNames {
    text.parse().unwrap_or_else(|error| panic!("{text}: {error}"))
}

fn read(text: &str) -> (Method, Vec<String>) {
    let StandbyNames { method, names } = parse(text);
    (method, names)
}

fn own(names: &[&str]) -> Vec<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

#[test]
fn every_form_of_the_grammar_is_read() {
    for (text, method, names) in [
        ("", Method::List, &[][..]),
        ("a", Method::List, &["a"]),
        (" a ,\n\"b\"\t", Method::List, &["a", "b"]),
        ("*", Method::List, &["*"]),
        ("2(a,b)", Method::First(2), &["a", "b"]),
        ("FIRST 1 (a)", Method::First(1), &["a"]),
        ("first 3 ( * )", Method::First(3), &["*"]),
        ("any 2 (a, b, c)", Method::Any(2), &["a", "b", "c"]),
        ("aNy 007(_x$1)", Method::Any(7), &["_x$1"]),
        // A number is a name too, and what only begins like a keyword is none.
        ("1, 2", Method::List, &["1", "2"]),
        ("2", Method::List, &["2"]),
        ("1 (1, 2)", Method::First(1), &["1", "2"]),
        ("anyone, firstly", Method::List, &["anyone", "firstly"]),
        ("\"any\", \"FIRST\"", Method::List, &["any", "FIRST"]),
        // The scanner takes the longest match and needs no blank between two tokens.
        (
            "ANY 1(\"a\"\"b\",\"\",\" (,) \")",
            Method::Any(1),
            &["a\"b", "", " (,) "],
        ),
        ("café, größe2", Method::List, &["café", "größe2"]),
    ] {
        assert_eq!(read(text), (method, own(names)), "{text}");
    }
}

#[test]
fn what_the_server_refuses_is_refused() {
    for (text, at) in [
        (" ", 1),
        ("a,", 2),
        (",a", 0),
        ("a b", 2),
        ("1a", 1),
        ("a-b", 1),
        ("any", 3),
        ("first", 5),
        ("a, any", 3),
        ("ANY (a)", 4),
        ("ANY 1 a", 6),
        ("ANY 1 ()", 7),
        ("ANY 1 (a", 8),
        ("ANY 1 (a))", 9),
        ("2 (a) b", 6),
        ("(a)", 0),
        ("a; b", 1),
        ("'a'", 0),
        ("a\0", 1),
    ] {
        let error = text.parse::<StandbyNames>().unwrap_err();
        assert_eq!(error, StandbyNamesError::Syntax { at }, "{text}");
    }
    for text in ["\"", "a, \"b", "\"a\"\"", "\"a\0\""] {
        let error = text.parse::<StandbyNames>().unwrap_err();
        assert_eq!(error, StandbyNamesError::Unterminated, "{text}");
    }
    for text in ["0 (a)", "ANY 0 (a)", "FIRST 2147483648 (a)", "99999999999999999999 (a)"] {
        let error = text.parse::<StandbyNames>().unwrap_err();
        assert!(matches!(error, StandbyNamesError::Number { .. }), "{text}: {error}");
    }
}

#[test]
fn names_are_compared_like_the_server_does() {
    assert!(parse("a, Seawall").contains("seaWALL"));
    assert!(parse("ANY 1 (\"SEAWALL\")").contains("seawall"));
    assert!(parse("FIRST 1 (*)").contains("whoever"));
    assert!(parse("\"*\"").contains("whoever"));
    assert!(!parse("seawall2, \"sea wall\"").contains("seawall"));
    // Only ASCII letters have two cases.
    assert!(parse("ä").contains("ä") && !parse("Ä").contains("ä"));
    assert!(!parse("").contains("") && parse("\"\"").contains(""));
}

#[test]
fn a_name_is_taken_out_and_the_rest_stays() {
    for (text, rest) in [
        ("seawall", ""),
        ("ANY 1 (Seawall)", ""),
        ("seawall, b", "b"),
        ("b, \"Seawall\", c", "b, c"),
        ("ANY 2 (seawall, b)", "ANY 1 (b)"),
        ("ANY 2 (b, c, seawall)", "ANY 2 (b, c)"),
        ("3 (seawall, b, c)", "FIRST 2 (b, c)"),
        (
            "FIRST 1 (\"a\"\"b\", seawall, \"any\", \"x y\", Z, 7)",
            "FIRST 1 (\"a\"\"b\", \"any\", \"x y\", Z, 7)",
        ),
        ("seawall, SEAWALL", ""),
        // Two standbys may have one name: a number that nothing was taken from stays.
        ("ANY 2 (b)", "ANY 2 (b)"),
        ("b, c", "b, c"),
        ("", ""),
    ] {
        assert_eq!(parse(text).without("seawall").as_deref(), Some(rest), "{text}");
    }
}

#[test]
fn a_name_that_a_star_stands_for_cannot_be_taken_out() {
    for text in ["*", "ANY 1 (*)", "FIRST 2 (b, *)", "\"*\"", "seawall, *"] {
        assert_eq!(parse(text).without("seawall"), None, "{text}");
    }
    assert_eq!(parse("b, *").without("*").as_deref(), Some("b"));
}

fn any_names() -> impl Strategy<Value = StandbyNames> {
    let method = prop_oneof![
        Just(Method::List),
        (1..=2_147_483_647_u32).prop_map(Method::First),
        (1..9_u32).prop_map(Method::Any),
    ];
    let name = prop_oneof![
        "[a-zA-Z_][a-z0-9$]{0,5}",
        "[0-9]{1,3}",
        "(any|FIRST|\\*|seawall)",
        "[^\0]{0,6}",
    ];
    (method, proptest::collection::vec(name, 1..5)).prop_map(|(method, names)| StandbyNames { method, names })
}

proptest! {
    #[test]
    fn what_is_printed_is_read_back(names in any_names()) {
        prop_assert_eq!(names.to_string().parse(), Ok(names));
    }

    #[test]
    fn what_is_left_does_not_have_the_name(names in any_names(), pick in 0..4_usize) {
        let name = names.names[pick % names.names.len()].clone();
        match names.without(&name) {
            None => prop_assert!(names.names.iter().any(|own| own == "*")),
            Some(rest) => {
                let rest = parse(&rest);
                prop_assert!(!rest.contains(&name));
                for own in &names.names {
                    prop_assert_eq!(rest.contains(own), !own.eq_ignore_ascii_case(&name));
                }
                prop_assert!(rest.names.is_empty() || (rest.method == Method::List) == (names.method == Method::List));
            }
        }
    }

    #[test]
    fn hostile_text_never_panics(text in "[aA1*(),\" \0ényfirst-]{0,24}", more in any::<String>()) {
        for text in [text, more] {
            if let Ok(names) = text.parse::<StandbyNames>() {
                prop_assert_eq!(names.to_string().parse(), Ok(names.clone()));
                names.without("a");
            }
        }
    }
}
