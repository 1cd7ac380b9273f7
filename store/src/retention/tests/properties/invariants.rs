//! Plans are those of the model, and what holds of each of them.

use super::*;

fn keys(case: &Case) -> Vec<(LineageId, u32)> {
    let all = [1, 2, 3]
        .into_iter()
        .flat_map(|lineage| (1..=9).map(move |timeline| (LineageId::from_number(lineage), timeline)));
    all.filter(|key| {
        let listed = case.ancestry.iter().any(|e| (e.lineage, e.timeline) == *key);
        listed || case.backups.iter().any(|b| (b.lineage, b.timeline) == *key)
    })
    .collect()
}

fn check(case: &Case, rules: &Rules, more: &Rules) -> Result<(), TestCaseError> {
    let plan = super::plan(case, rules);
    let kept: Vec<bool> = plan.verdicts.iter().map(|verdict| !verdict.kept.is_empty()).collect();
    let model = Model::new(case, rules);
    prop_assert_eq!(&kept[..], model.kept(), "{:#?}", plan);
    for key in keys(case) {
        let expected = (0..LSN_END).filter(|lsn| model.keeps_wal(key, *lsn));
        let expected: Bytes = expected.fold(0, |bits, lsn| bits | 1 << lsn);
        prop_assert_eq!(bytes(&plan, key), expected, "WAL of {:?} {:#?}", key, plan);
    }
    check_floor(case, &plan, &kept, &model)?;
    check_shape(&plan)?;
    check_again(case, rules, &plan)?;
    if *rules != Rules::default() {
        check_more(case, rules, &stronger(rules, more), &plan)?;
    }
    Ok(())
}

/// What no rule may give up.
fn check_floor(case: &Case, plan: &RetentionPlan, kept: &[bool], model: &Model) -> Result<(), TestCaseError> {
    prop_assert!(case.backups.is_empty() || kept.contains(&true), "all gone");
    let past = || case.backups.iter().filter(|b| b.stored_at <= case.now);
    let newest_proven = past().filter(|b| b.proven).max_by_key(|b| (b.stored_at, b.id));
    let newest = past().max_by_key(|b| (b.stored_at, b.id));
    let stays: Vec<_> = keys(case).into_iter().map(|key| (key, bytes(plan, key))).collect();
    for (backup, kept) in case.backups.iter().zip(kept) {
        let must =
            backup.pinned || backup.stored_at > case.now || Some(backup) == newest || Some(backup) == newest_proven;
        prop_assert!(*kept || !must, "{:?} went", backup);
        for (key, stays) in stays.iter().filter(|_| *kept) {
            let lost = (backup.start_lsn..LSN_END).find(|lsn| stays >> lsn & 1 == 0 && model.needs(backup, *key, *lsn));
            prop_assert!(lost.is_none(), "{:?} lacks {:?} of {:?}", backup, lost, key);
        }
    }
    Ok(())
}

/// Sorted, without overlaps, and what is continuous is last.
fn check_shape(plan: &RetentionPlan) -> Result<(), TestCaseError> {
    prop_assert!(
        plan.wal
            .is_sorted_by(|a, b| (a.lineage, a.timeline) < (b.lineage, b.timeline))
    );
    for keep in &plan.wal {
        let mut before = None;
        for range in &keep.ranges {
            let (start, end) = match *range {
                WalRange::StartToEnd { start, end } => (start, end),
                WalRange::Continuous { from } => (from, u64::MAX),
            };
            prop_assert!(start < end && before.is_none_or(|before| before < start), "{:?}", keep);
            before = Some(end);
        }
    }
    Ok(())
}

/// Carried out once, there is nothing left to do.
fn check_again(case: &Case, rules: &Rules, plan: &RetentionPlan) -> Result<(), TestCaseError> {
    let is_listed = |b: &Backup| {
        case.ancestry
            .iter()
            .any(|e| (e.lineage, e.timeline) == (b.lineage, b.timeline))
    };
    if !case.backups.iter().all(is_listed) {
        return Ok(()); // The caller owes this: a timeline that only a backup mentions is forgotten with it.
    }
    let again = super::plan(&left(case, plan), rules);
    let stayed: Vec<_> = plan
        .verdicts
        .iter()
        .filter(|verdict| !verdict.kept.is_empty())
        .collect();
    prop_assert_eq!(again.verdicts.iter().collect::<Vec<_>>(), stayed);
    prop_assert_eq!(&again.wal, &plan.wal);
    Ok(())
}

/// For each rule the stronger of two.
fn stronger(a: &Rules, b: &Rules) -> Rules {
    Rules {
        keep_within: a.keep_within.max(b.keep_within),
        keep_last: a.keep_last.max(b.keep_last),
        keep_daily: a.keep_daily.max(b.keep_daily),
        keep_weekly: a.keep_weekly.max(b.keep_weekly),
        keep_monthly: a.keep_monthly.max(b.keep_monthly),
        keep_yearly: a.keep_yearly.max(b.keep_yearly),
        window: a.window.max(b.window),
    }
}

/// Rules that ask for more keep no less. WAL is the exception that the module's text names: `window` takes over.
fn check_more(case: &Case, rules: &Rules, more: &Rules, plan: &RetentionPlan) -> Result<(), TestCaseError> {
    let with_more = super::plan(case, more);
    for (few, many) in plan.verdicts.iter().zip(&with_more.verdicts) {
        prop_assert!(
            few.kept.is_empty() || !many.kept.is_empty(),
            "{:?} went with {:?}",
            few,
            more
        );
    }
    if rules.window.is_none() && more.window.is_some() {
        return Ok(());
    }
    for key in keys(case) {
        prop_assert_eq!(
            bytes(plan, key) & !bytes(&with_more, key),
            0,
            "WAL of {:?} went with {:?}",
            key,
            more
        );
    }
    Ok(())
}

#[test]
fn plans_of_real_histories_are_those_of_the_model() {
    run(&(world::worlds(), rules(), rules()), |(world, rules, more)| {
        check(&world.case, &rules, &more)
    });
}

#[test]
fn plans_of_nonsense_are_those_of_the_model() {
    run(&(world::nonsense(), rules(), rules()), |(case, rules, more)| {
        check(&case, &rules, &more)
    });
}
