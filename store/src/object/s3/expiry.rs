//! Rules of a bucket that delete or put away objects by themselves. Whoever has set one may not know that a backup lies there.

use aws_sdk_s3::error::ProvideErrorMetadata as _;
use aws_sdk_s3::primitives::DateTime;
use aws_sdk_s3::types::{ExpirationStatus, LifecycleRule, TransitionStorageClass};

use super::{S3Store, reason_of};
use crate::object::s3_error::{Reason, S3Failure, failure};
use crate::object::{ObjectError, Operation};

/// The answer of a bucket without rules (S3 API reference, `GetBucketLifecycleConfiguration`).
const NO_RULES: &str = "NoSuchLifecycleConfiguration";
/// Classes from which an object has to be brought back for hours before it can be read.
const OUT_OF_REACH: [TransitionStorageClass; 2] =
    [TransitionStorageClass::Glacier, TransitionStorageClass::DeepArchive];

impl S3Store {
    /// As [`crate::object::ObjectStore::expiry_rules`].
    pub(super) async fn rules_over_us(&self) -> Result<Option<Vec<String>>, ObjectError> {
        let client = self.client();
        let asked = client.get_bucket_lifecycle_configuration().bucket(&self.options.bucket);
        match self.within(0, asked.send()).await {
            Ok(answer) => {
                let rules = answer.rules().iter();
                Ok(Some(
                    rules.filter_map(|rule| in_words(rule, &self.key_prefix)).collect(),
                ))
            }
            Err(S3Failure::Sdk(error)) if error.code() == Some(NO_RULES) => Ok(Some(Vec::new())),
            Err(error) => match reason_of(&error) {
                Reason::AccessDenied | Reason::Refused | Reason::NotImplemented => Ok(None),
                _ => Err(failure(Operation::Open, &self.options.bucket, error)),
            },
        }
    }
}

/// What an enabled rule does to objects below our prefix; nothing for one that leaves them alone.
fn in_words(rule: &LifecycleRule, ours: &str) -> Option<String> {
    if *rule.status() != ExpirationStatus::Enabled {
        return None;
    }
    let prefix = prefix_of(rule)?;
    if !ours.starts_with(&prefix) && !prefix.starts_with(ours) {
        return None;
    }
    let name = rule.id().map_or_else(String::new, |id| format!("\"{id}\" "));
    let of = match prefix.as_str() {
        "" => "everything".to_owned(),
        prefix => format!("what begins with \"{prefix}\""),
    };
    let when = |days: Option<i32>, date: Option<&DateTime>| match (days, date) {
        (Some(days), _) => Some(format!("{days} days after it came")),
        (None, Some(date)) => Some(format!("on {date}")),
        (None, None) => None,
    };
    let deletes = rule
        .expiration()
        .and_then(|expiration| when(expiration.days(), expiration.date()))
        .map(|when| format!("{name}deletes {of} {when}"));
    let puts_away = rule.transitions().iter().find_map(|transition| {
        let class = transition
            .storage_class()
            .filter(|class| OUT_OF_REACH.contains(class))?;
        let when = when(transition.days(), transition.date())?;
        Some(format!("{name}puts {of} out of reach, to {class}, {when}"))
    });
    deletes.or(puts_away)
}

/// The beginning of the keys that a rule is for; nothing where it asks for tags: our objects have none.
fn prefix_of(rule: &LifecycleRule) -> Option<String> {
    let Some(filter) = rule.filter() else {
        #[allow(deprecated)] // the form of before, which buckets still have
        return Some(rule.prefix().unwrap_or_default().to_owned());
    };
    let and = filter.and();
    if filter.tag().is_some() || and.is_some_and(|and| !and.tags().is_empty()) {
        return None;
    }
    let prefix = filter.prefix().or_else(|| and?.prefix());
    Some(prefix.unwrap_or_default().to_owned())
}

#[cfg(test)]
mod tests {
    use aws_sdk_s3::types::{LifecycleExpiration, LifecycleRuleAndOperator, LifecycleRuleFilter, Tag, Transition};

    use super::*;

    fn rule(filter: LifecycleRuleFilter, status: ExpirationStatus) -> LifecycleRule {
        let expiration = LifecycleExpiration::builder().days(30).build();
        let rule = LifecycleRule::builder().id("old").filter(filter).status(status);
        rule.expiration(expiration).build().unwrap()
    }

    fn prefix(prefix: &str) -> LifecycleRuleFilter {
        LifecycleRuleFilter::builder().prefix(prefix).build()
    }

    #[test]
    fn a_rule_that_reaches_our_prefix_is_told() {
        let of = |filter| in_words(&rule(filter, ExpirationStatus::Enabled), "db/seawall/");
        assert_eq!(
            of(prefix("")).unwrap(),
            "\"old\" deletes everything 30 days after it came"
        );
        assert!(of(prefix("db/")).unwrap().contains("what begins with \"db/\""));
        assert!(of(prefix("db/seawall/clusters/main/packs")).is_some());
        assert_eq!(of(prefix("logs/")), None);
        let tag = Tag::builder().key("a").value("b").build().unwrap();
        assert_eq!(of(LifecycleRuleFilter::builder().tag(tag.clone()).build()), None);
        let and = |and: LifecycleRuleAndOperator| LifecycleRuleFilter::builder().and(and).build();
        assert_eq!(
            of(and(LifecycleRuleAndOperator::builder().prefix("db").tags(tag).build())),
            None
        );
        let large = LifecycleRuleAndOperator::builder()
            .prefix("db")
            .object_size_greater_than(5);
        assert!(of(and(large.build())).is_some());
        assert_eq!(in_words(&rule(prefix(""), ExpirationStatus::Disabled), "db/"), None);
    }

    #[test]
    fn a_class_that_cannot_be_read_at_once_is_told() {
        let of = |class| {
            let transition = Transition::builder().days(7).storage_class(class).build();
            let rule = LifecycleRule::builder().filter(prefix("")).transitions(transition);
            in_words(&rule.status(ExpirationStatus::Enabled).build().unwrap(), "")
        };
        assert!(
            of(TransitionStorageClass::DeepArchive)
                .unwrap()
                .contains("DEEP_ARCHIVE")
        );
        assert_eq!(of(TransitionStorageClass::GlacierIr), None);
    }
}
