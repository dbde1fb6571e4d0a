//! The candidates for one request: which deployments may serve it, which may not and why, and which is asked next.

use std::{
    mem,
    sync::Arc,
    time::{Duration, Instant},
};

use super::{Deployment, Plan, Target};
use crate::error::{Fault, GatewayError};

/// Why a deployment is no candidate.
#[derive(Clone, Debug)]
pub enum Reason {
    /// Neither the client nor the gateway has a key for the deployment.
    NoKey,
    /// The cost of the request cannot be bounded at the deployment.
    NoPrice(Box<GatewayError>),
    /// The prompt does not fit into the deployment's context.
    NoRoom(Box<GatewayError>),
    /// The deployment's dialect cannot carry the request.
    Dialect(Box<GatewayError>),
    /// The request refers to objects that do not exist at the deployment, or are not the caller's.
    Objects(Box<GatewayError>),
    /// The deployment cannot answer the request exactly.
    Other,
}

impl Reason {
    /// The client's error if this reason ruled out the last candidate. [`Self::NoKey`] and [`Self::Other`] give a general one.
    pub fn into_error(self) -> Box<GatewayError> {
        match self {
            Self::NoPrice(error) | Self::NoRoom(error) | Self::Dialect(error) | Self::Objects(error) => error,
            Self::NoKey | Self::Other => {
                Box::new(GatewayError::new(Fault::Internal, "No deployment is left that can serve the request."))
            }
        }
    }
}

/// How an attempt ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AttemptOutcome {
    /// The provider's answer went to the client, good or bad.
    Answered,
    /// The provider answered with a status for which another deployment is asked.
    Refused,
    /// No connection could be made: nothing was sent.
    Unreachable,
    /// The connection had been closed while it lay in the pool: that says nothing about the provider.
    Stale,
    /// The provider sent nothing for too long.
    TimedOut {
        /// The request had been sent, and no answer had come: the provider may have been at work.
        at_work: bool,
    },
    /// The connection broke.
    Broke {
        /// The request had been sent, and no answer had come: the provider may have been at work.
        at_work: bool,
    },
    /// The client left.
    Left,
    /// The gateway could not go on, for a reason of its own.
    Ours,
}

impl AttemptOutcome {
    /// The provider was at work on the request when the attempt ended without an answer: it may charge for it.
    pub fn is_at_work(self) -> bool {
        matches!(self, Self::TimedOut { at_work: true } | Self::Broke { at_work: true })
    }

    /// The word in the metrics for an attempt that failed at the provider.
    pub fn failure(self) -> Option<&'static str> {
        match self {
            Self::Unreachable => Some("connect_error"),
            Self::TimedOut { .. } => Some("timeout"),
            Self::Broke { .. } | Self::Stale => Some("interrupted"),
            Self::Answered | Self::Refused | Self::Left | Self::Ours => None,
        }
    }
}

/// The record of an attempt that is over.
#[derive(Clone, Debug)]
pub struct AttemptRecord {
    /// The deployment that was asked.
    pub deployment: Arc<Deployment>,
    /// Time until the attempt was over.
    pub took: Duration,
    /// The status that the provider answered with.
    pub status: Option<u16>,
    /// How it ended.
    pub outcome: AttemptOutcome,
}

/// Decides the order in which deployments are asked.
pub trait Policy: Send + Sync {
    /// The indices of `targets` in the order in which they are asked; `None` to keep the order of `targets`. A target whose index
    /// is missing is not asked; an index that does not exist is passed over.
    fn order(&self, targets: &[Target]) -> Option<Box<[usize]>>;
}

/// The order of the plan.
#[derive(Clone, Copy, Debug, Default)]
pub struct FirstToLast;

impl Policy for FirstToLast {
    fn order(&self, _targets: &[Target]) -> Option<Box<[usize]>> {
        None
    }
}

/// The deployments of one request.
pub struct Candidates {
    plan: Plan,
    order: Option<Box<[usize]>>,
    /// Position in the order of the next target.
    next: usize,
    /// Targets that are ruled out, by their index in the plan.
    out: Vec<(usize, Reason)>,
    latest: Option<Latest>,
    /// The latest target is asked once more.
    again: bool,
    has_repeated: bool,
    most: u32,
    lease: Option<Lease>,
    records: Vec<AttemptRecord>,
}

/// The attempt under way, or the last one.
struct Latest {
    /// Index of the target in the plan.
    place: usize,
    began: Instant,
    status: Option<u16>,
}

/// An attempt under way: counted by its deployment until the lease is dropped.
struct Lease(Arc<Deployment>);

impl Lease {
    fn new(deployment: Arc<Deployment>) -> Self {
        deployment.begin();
        Self(deployment)
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.0.end();
    }
}

impl Candidates {
    /// All deployments of a plan, of which at most `most` attempts are made.
    pub fn new(plan: Plan, most: u32, policy: &dyn Policy) -> Self {
        let order = policy.order(&plan.targets);
        Self {
            plan,
            order,
            next: 0,
            out: Vec::new(),
            latest: None,
            again: false,
            has_repeated: false,
            most,
            lease: None,
            records: Vec::new(),
        }
    }

    /// The request's plan.
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// The targets that may still be asked, first to last.
    pub fn left(&self) -> impl Iterator<Item = &Target> {
        self.left_from(self.next).map(|(_, target)| target)
    }

    fn left_from(&self, next: usize) -> impl Iterator<Item = (usize, &Target)> {
        let length = self.order.as_ref().map_or(self.plan.targets.len(), |order| order.len());
        let places = (next..length).map(|at| self.place(at));
        let open = places.filter(|place| self.out.iter().all(|(out, _)| out != place));
        open.filter_map(|place| Some((place, self.plan.targets.get(place)?)))
    }

    fn place(&self, at: usize) -> usize {
        self.order.as_ref().map_or(at, |order| order[at])
    }

    /// The first of [`Self::left`].
    pub fn first(&self) -> Option<&Target> {
        self.left().next()
    }

    /// Rules out the targets for which `why` gives a reason.
    ///
    /// # Errors
    /// No target would be left: the first reason. Then none is ruled out.
    pub fn rule_out(&mut self, mut why: impl FnMut(&Target) -> Option<Reason>) -> Result<(), Reason> {
        let mut out: Vec<(usize, Reason)> = Vec::new();
        let mut stays = false;
        for (place, target) in self.left_from(self.next) {
            match why(target) {
                Some(reason) => out.push((place, reason)),
                None => stays = true,
            }
        }
        match (stays, out.is_empty()) {
            (false, false) => Err(out.swap_remove(0).1),
            _ => {
                self.out.append(&mut out);
                Ok(())
            }
        }
    }

    /// Rules out the target that would be asked next.
    pub fn rule_out_next(&mut self, reason: Reason) {
        let first = self.left_from(self.next).next().map(|(place, _)| place);
        if let Some(place) = first.filter(|_| !mem::take(&mut self.again)) {
            self.out.push((place, reason));
        }
    }

    /// Why the target that was ruled out last was.
    pub fn last_reason(&self) -> Option<&Reason> {
        self.out.last().map(|(_, reason)| reason)
    }

    /// The target that would be asked next; `None` if no other attempt may be made.
    pub fn peek(&self) -> Option<&Target> {
        self.upcoming().map(|(_, target)| target)
    }

    fn upcoming(&self) -> Option<(usize, &Target)> {
        if self.asked() >= self.most {
            return None;
        }
        match &self.latest {
            Some(latest) if self.again => Some((latest.place, self.plan.targets.get(latest.place)?)),
            _ => self.left_from(self.next).next(),
        }
    }

    /// Begins the next attempt, which is under way until [`Self::end`].
    pub fn lease(&mut self) -> Option<Target> {
        self.end(AttemptOutcome::Ours);
        let (place, target) = self.upcoming()?;
        let target = target.clone();
        if !mem::take(&mut self.again) {
            self.next = (self.next..).find(|next| self.place(*next) == place)? + 1;
        }
        self.latest = Some(Latest { place, began: Instant::now(), status: None });
        self.lease = Some(Lease::new(target.deployment.clone()));
        Some(target)
    }

    /// When the attempt under way, or the last one, began.
    pub fn began(&self) -> Option<Instant> {
        self.latest.as_ref().map(|latest| latest.began)
    }

    /// The status that the attempt under way, or the last one, was answered with.
    pub fn status(&self) -> Option<u16> {
        self.latest.as_ref()?.status
    }

    /// Records the status that the attempt under way was answered with.
    pub fn answered(&mut self, status: u16) {
        if let Some(latest) = &mut self.latest {
            latest.status = Some(status);
        }
    }

    /// Ends the attempt under way. `None` if there is none.
    pub fn end(&mut self, outcome: AttemptOutcome) -> Option<&AttemptRecord> {
        let (lease, latest) = (self.lease.take()?, self.latest.as_ref()?);
        let (deployment, took) = (lease.0.clone(), latest.began.elapsed());
        self.records.push(AttemptRecord { deployment, took, status: latest.status, outcome });
        self.records.last()
    }

    /// The attempts that are over, first to last.
    pub fn records(&self) -> &[AttemptRecord] {
        &self.records
    }

    /// Number of attempts so far.
    pub fn asked(&self) -> u32 {
        u32::try_from(self.records.len()).unwrap_or(u32::MAX).saturating_add(u32::from(self.lease.is_some()))
    }

    /// Asks the latest target once more, on a connection of its own; once per request. False if that was done before.
    pub fn repeat(&mut self) -> bool {
        if self.has_repeated || self.latest.is_none() {
            return false;
        }
        (self.has_repeated, self.again) = (true, true);
        true
    }

    /// [`Self::repeat`] was called.
    pub fn has_repeated(&self) -> bool {
        self.has_repeated
    }

    /// Forgets all attempts, which asked something for the gateway itself and not for the client. `fresh` makes the attempts that
    /// follow use connections of their own.
    pub fn start_over(&mut self, fresh: bool) {
        self.end(AttemptOutcome::Answered);
        (self.next, self.latest, self.again, self.has_repeated) = (0, None, false, fresh);
        self.records.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        config::{Config, Source},
        routing::{Authorizers, Deployments, RouteTable},
    };

    fn plan(deployments: &Arc<Deployments>) -> Plan {
        let yaml = "routes: [{model: m, to: [openai/a, groq/b, together/c]}]";
        let source = Source { env: Arc::new(|_: &str| None), ..Source::new(None) };
        RouteTable::new(&Config::load_text(yaml, &source).unwrap().config, deployments, &Authorizers::new())
            .unwrap()
            .plan("m")
    }

    fn names(candidates: &Candidates) -> Vec<&str> {
        candidates.left().map(|target| &*target.model).collect()
    }

    fn no_price() -> Reason {
        Reason::NoPrice(Box::new(GatewayError::new(Fault::ModelNotPriced, "no price")))
    }

    #[test]
    fn who_is_left_out_is_not_asked_and_the_last_ones_reason_is_told() {
        let mut candidates = Candidates::new(plan(&Arc::default()), 9, &FirstToLast);
        candidates.rule_out(|target| (&*target.model == "b").then_some(Reason::NoKey)).unwrap();
        assert_eq!(names(&candidates), ["a", "c"]);
        let refused = candidates.rule_out(|_| Some(no_price())).unwrap_err();
        assert_eq!(refused.into_error().fault, Fault::ModelNotPriced);
        assert_eq!(names(&candidates), ["a", "c"], "all stay where none would be left");
        let no_key = candidates.rule_out(|_| Some(Reason::NoKey)).unwrap_err();
        assert_eq!(no_key.into_error().fault, Fault::Internal, "no reason lets a request pass");
        candidates.rule_out_next(no_price());
        assert_eq!(&*candidates.lease().unwrap().model, "c");
        assert!(candidates.lease().is_none() && candidates.asked() == 1);
        assert!(matches!(candidates.last_reason(), Some(Reason::NoPrice(_))));
    }

    #[test]
    fn each_attempt_counts_at_its_deployment_until_it_ends_and_leaves_a_record() {
        let deployments = Arc::<Deployments>::default();
        let mut candidates = Candidates::new(plan(&deployments), 2, &FirstToLast);
        let flying = |model: &str| ["openai", "groq"].map(|name| deployments.of(&name.into(), model).in_flight());
        candidates.lease().unwrap();
        assert_eq!(flying("a"), [1, 0]);
        assert_eq!(candidates.end(AttemptOutcome::Unreachable).unwrap().outcome.failure(), Some("connect_error"));
        assert!(candidates.end(AttemptOutcome::Answered).is_none(), "an attempt ends once");
        assert_eq!(flying("a"), [0, 0]);
        candidates.lease().unwrap();
        candidates.answered(503);
        assert_eq!((flying("b"), candidates.peek().is_none()), ([0, 1], true), "two are the most");
        assert_eq!(candidates.end(AttemptOutcome::Refused).unwrap().outcome.failure(), None);
        let told: Vec<_> = candidates.records().iter().map(|record| (record.status, record.outcome)).collect();
        assert_eq!(told, [(None, AttemptOutcome::Unreachable), (Some(503), AttemptOutcome::Refused)]);
        let mut abandoned = Candidates::new(plan(&deployments), 2, &FirstToLast);
        abandoned.lease().unwrap();
        drop(abandoned);
        assert_eq!(flying("a"), [0, 0], "also one that nobody ends");
    }

    #[test]
    fn one_is_asked_once_more_and_then_the_next() {
        let mut candidates = Candidates::new(plan(&Arc::default()), 4, &FirstToLast);
        assert!(!candidates.repeat(), "nobody was asked");
        candidates.lease().unwrap();
        assert!(candidates.repeat() && !candidates.repeat());
        assert_eq!(&*candidates.lease().unwrap().model, "a");
        candidates.end(AttemptOutcome::Stale);
        assert!(!candidates.repeat(), "once for a request");
        assert_eq!(&*candidates.lease().unwrap().model, "b");
        candidates.start_over(true);
        assert!(candidates.has_repeated() && candidates.records().is_empty() && candidates.asked() == 0);
        assert_eq!(names(&candidates), ["a", "b", "c"]);
    }

    /// Another policy: from the last to the first, without the second, and with an index that does not exist.
    struct Backwards;

    impl Policy for Backwards {
        fn order(&self, _targets: &[Target]) -> Option<Box<[usize]>> {
            Some([2, 7, 0].into())
        }
    }

    #[test]
    fn a_policy_says_the_order() {
        let mut candidates = Candidates::new(plan(&Arc::default()), 9, &Backwards);
        assert_eq!(names(&candidates), ["c", "a"]);
        candidates.rule_out(|target| (&*target.model == "c").then_some(Reason::NoKey)).unwrap();
        assert_eq!(&*candidates.lease().unwrap().model, "a");
        assert!(candidates.lease().is_none());
    }
}
