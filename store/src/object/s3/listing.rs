//! Pages of a listing: what is asked, and whether the answer is a whole page.
//!
//! The next page is asked for with the server's own token, because some services order keys by directory and would lose
//! keys if the last name of a page were taken as the place to go on.

use aws_sdk_s3::Client;
use aws_sdk_s3::operation::list_objects_v2::ListObjectsV2Output;
use aws_sdk_s3::operation::list_objects_v2::builders::ListObjectsV2FluentBuilder;

use super::super::{ErrorClass, ListPage, ObjectError, ObjectName, Operation, Outcome};
use super::meta_of;

/// Marks a server's token in [`ListPage::next`]: no object name begins with it.
const TOKEN: char = '\u{1}';

pub(super) fn request(
    client: &Client,
    bucket: &str,
    key_prefix: &str,
    prefix: &str,
    after: Option<&str>,
    max: usize,
) -> ListObjectsV2FluentBuilder {
    let list = client
        .list_objects_v2()
        .bucket(bucket)
        .prefix(format!("{key_prefix}{prefix}"))
        .max_keys(i32::try_from(max).unwrap_or(i32::MAX));
    match after.map(|after| (after, after.strip_prefix(TOKEN))) {
        None => list,
        Some((_, Some(token))) => list.continuation_token(token),
        Some((name, None)) => list.start_after(format!("{key_prefix}{name}")),
    }
}

pub(super) fn page(key_prefix: &str, prefix: &str, answer: ListObjectsV2Output) -> Result<ListPage, ObjectError> {
    let broken = |detail: &str| {
        ObjectError::new(
            Operation::List,
            prefix,
            Outcome::DidNotHappen,
            ErrorClass::Transient,
            detail,
        )
    };
    // An empty or cut answer with status 200 parses as a page without keys: the element that ends a real page tells.
    let more = answer
        .is_truncated
        .ok_or_else(|| broken("the answer does not say whether it is complete"))?;
    let next = match (more, answer.next_continuation_token) {
        (false, _) => None,
        (true, Some(token)) if !token.is_empty() => Some(format!("{TOKEN}{token}")),
        (true, _) => return Err(broken("the answer says that there is more, but not how to get it")),
    };
    let mut page = ListPage {
        next,
        ..ListPage::default()
    };
    for object in answer.contents.unwrap_or_default() {
        let key = object
            .key
            .as_deref()
            .ok_or_else(|| broken("the answer has an object without a key"))?;
        let name = key.strip_prefix(key_prefix).filter(|name| name.starts_with(prefix));
        let name = name.ok_or_else(|| broken("the answer has an object outside the prefix"))?;
        let Ok(name) = ObjectName::new(name) else {
            page.foreign += 1;
            continue;
        };
        let meta = meta_of(&name, object.size, object.last_modified.as_ref());
        page.objects
            .push(meta.ok_or_else(|| broken("the answer lacks the size or the time of an object"))?);
    }
    Ok(page)
}

#[cfg(test)]
mod tests {
    use aws_sdk_s3::primitives::DateTime;
    use aws_sdk_s3::types::Object;

    use super::*;

    fn object(key: &str) -> Object {
        Object::builder()
            .key(key)
            .size(3)
            .last_modified(DateTime::from_millis(1500))
            .build()
    }

    #[test]
    fn a_page_without_its_end_is_an_error_not_a_short_listing() {
        for answer in [
            ListObjectsV2Output::builder().build(),
            ListObjectsV2Output::builder().contents(object("p/a")).build(),
            ListObjectsV2Output::builder()
                .contents(object("p/a"))
                .is_truncated(true)
                .build(),
            ListObjectsV2Output::builder()
                .contents(object("q/a"))
                .is_truncated(false)
                .build(),
            ListObjectsV2Output::builder()
                .contents(Object::builder().key("p/a").build())
                .is_truncated(false)
                .build(),
        ] {
            assert!(page("p/", "", answer).is_err());
        }
    }

    #[test]
    fn foreign_keys_are_counted_and_left_out() {
        let answer = ListObjectsV2Output::builder()
            .contents(object("p/a"))
            .contents(object("p/dir/"))
            .contents(object("p/sp ace"))
            .is_truncated(true)
            .next_continuation_token("t1")
            .build();
        let page = page("p/", "", answer).unwrap();
        assert_eq!((page.objects.len(), page.foreign), (1, 2));
        assert_eq!(
            (page.objects[0].name.as_str(), page.objects[0].modified_unix_ms),
            ("a", 1500)
        );
        assert_eq!(page.next.as_deref(), Some("\u{1}t1"));
    }
}
