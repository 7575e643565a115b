//! Who the clients are and what they may do: the cluster's ACL users as this worker sees them, the
//! check before each command, and the log of what was refused.

use super::WorkerCore;
use super::session::Resolved;
use bytes::Bytes;
use holdfast_proto::acl::{self, Caller, Denied, User};
use holdfast_proto::command::CommandSpec;
use holdfast_proto::resp::RawRequest;
use smallvec::SmallVec;
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

/// The user of a client that has not named one.
pub(crate) const DEFAULT_USER: &str = "default";
/// Equal refusals within this time are one entry of ACL LOG (`ACL_LOG_GROUPING_MAX_TIME_DELTA`).
const LOG_GROUPING_US: u64 = 60_000_000;

/// A user by name.
pub(crate) struct Account {
    pub(crate) name: String,
    pub(crate) user: User,
    /// May do everything: nothing needs to be checked.
    pub(crate) unrestricted: bool,
    /// What goes with the user's scripts, for the shard to check their commands.
    permissions: String,
}

impl Account {
    fn new(name: &str, user: User) -> Arc<Self> {
        let unrestricted = user.is_unrestricted();
        let permissions = user.permissions();
        Arc::new(Self { name: name.to_owned(), user, unrestricted, permissions })
    }

    /// A script's call as the shard gets it: with what its user may do, if that is not everything.
    pub(crate) fn script_body(&self, request: &RawRequest) -> Bytes {
        if self.unrestricted {
            return request.raw.clone();
        }
        let (name, permissions) = (self.name.as_bytes(), self.permissions.as_bytes());
        Caller { name, permissions }.wrap(&request.raw, request.len())
    }
}

/// All users, by name.
pub(crate) struct Users {
    accounts: BTreeMap<String, Arc<Account>>,
    /// What the accounts were made from.
    source: (String, BTreeMap<String, String>),
    /// Counts the changes, so that a queued transaction notices one.
    pub(crate) version: u64,
}

impl Users {
    pub(super) fn new() -> Self {
        let default = Account::new(DEFAULT_USER, User::with_password(""));
        Self {
            accounts: BTreeMap::from([(DEFAULT_USER.to_owned(), default)]),
            source: Default::default(),
            version: 0,
        }
    }

    pub(crate) fn get(&self, name: &str) -> Option<&Arc<Account>> {
        self.accounts.get(name)
    }

    pub(crate) fn default_user(&self) -> &Arc<Account> {
        self.accounts.get(DEFAULT_USER).expect("the default user is always there")
    }

    /// In the order of their names.
    pub(crate) fn iter(&self) -> impl ExactSizeIterator<Item = &Arc<Account>> {
        self.accounts.values()
    }

    /// The rules as the metadata has them; empty when it has none for this name.
    pub(crate) fn stored_rules(&self, name: &str) -> &str {
        self.source.1.get(name).map_or("", String::as_str)
    }

    /// Takes over what the metadata says; false when it is nothing new.
    fn update(&mut self, password: &str, rules: BTreeMap<String, String>) -> bool {
        if self.version > 0 && self.source.0 == password && self.source.1 == rules {
            return false;
        }
        self.accounts.clear();
        let default = Account::new(DEFAULT_USER, User::with_password(password));
        self.accounts.insert(DEFAULT_USER.to_owned(), default);
        for (name, rules) in &rules {
            match User::parse(rules) {
                Ok(user) => {
                    self.accounts.insert(name.clone(), Account::new(name, user));
                }
                // Rules of a newer version: rather nothing than too much.
                Err(error) => {
                    tracing::error!(user = %name, %error, "the rules of a user make no sense");
                    self.accounts.insert(name.clone(), Account::new(name, User::default()));
                }
            }
        }
        self.source = (password.to_owned(), rules);
        self.version += 1;
        true
    }
}

/// One entry of ACL LOG.
pub(crate) struct Refusal {
    pub(crate) id: u64,
    pub(crate) count: u64,
    pub(crate) reason: &'static str,
    pub(crate) context: &'static str,
    pub(crate) object: Vec<u8>,
    pub(crate) user: String,
    pub(crate) client: String,
    pub(crate) created_us: u64,
    pub(crate) updated_us: u64,
}

/// What was refused lately, newest first.
#[derive(Default)]
pub(crate) struct RefusalLog {
    pub(crate) entries: VecDeque<Refusal>,
    next_id: u64,
}

impl RefusalLog {
    fn add(&mut self, refusal: Refusal, max: usize) {
        let same = |known: &Refusal| {
            known.reason == refusal.reason
                && known.context == refusal.context
                && known.object == refusal.object
                && known.user == refusal.user
                && refusal.created_us.saturating_sub(known.updated_us) < LOG_GROUPING_US
        };
        let refusal =
            match self.entries.iter().position(same).and_then(|at| self.entries.remove(at)) {
                Some(known) => Refusal {
                    count: known.count + 1,
                    updated_us: refusal.created_us,
                    client: refusal.client,
                    ..known
                },
                None => {
                    self.next_id += 1;
                    Refusal { id: self.next_id - 1, ..refusal }
                }
            };
        self.entries.push_front(refusal);
        self.entries.truncate(max);
    }
}

impl WorkerCore {
    /// Takes over the users of newer metadata. Connections of deleted users are closed; the others
    /// go on under the new rules.
    pub(super) fn take_users(&mut self) {
        let spec = self.topology.spec.as_ref();
        let rules = spec.map_or_else(BTreeMap::new, |spec| {
            spec.users.iter().map(|(name, rules)| (name.clone(), rules.clone())).collect()
        });
        let password = spec.map_or("", |spec| &spec.password).to_owned();
        if !self.users.update(&password, rules) {
            return;
        }
        let indexes: Vec<u32> = self.clients.iter().map(|(index, _)| index).collect();
        for index in indexes {
            let Some(client) = self.clients.get_mut(index) else { continue };
            match self.users.get(&client.account.name) {
                Some(account) => client.account = account.clone(),
                None => {
                    client.closing = true;
                    self.mark_client(index);
                }
            }
        }
    }

    /// May clients run commands without AUTH?
    pub(super) fn is_open(&self) -> bool {
        let user = &self.users.default_user().user;
        user.enabled && user.nopass
    }

    /// Makes a client this user if the password is right.
    pub(super) fn authenticate(&mut self, index: u32, name: &[u8], password: &[u8]) -> bool {
        let account = std::str::from_utf8(name).ok().and_then(|name| self.users.get(name));
        let account = account.filter(|a| a.user.enabled && a.user.accepts(password)).cloned();
        let Some(account) = account else {
            self.stats.auth_failures += 1;
            let object =
                self.clients.get(index).and_then(|c| super::local::name_of(c.last_command));
            let object = object.unwrap_or("auth").as_bytes().to_vec();
            let user = String::from_utf8_lossy(name).into_owned();
            self.log_refusal(index, "auth", object, user);
            return false;
        };
        if let Some(client) = self.clients.get_mut(index) {
            client.authenticated = true;
            client.account = account;
        }
        true
    }

    /// Refuses a command that the client's user may not run; true when it did.
    pub(super) fn refuse_unpermitted(
        &mut self,
        index: u32,
        resolved: Resolved,
        request: &RawRequest,
    ) -> bool {
        let Some(client) = self.clients.get(index) else { return true };
        if client.account.unrestricted {
            return false;
        }
        let account = client.account.clone();
        let args: SmallVec<[&[u8]; 16]> = request.iter().collect();
        let Err(text) = self.check_permission(index, &account, resolved.spec, &args) else {
            return false;
        };
        if resolved.spec.name == "exec"
            && let Some(client) = self.clients.get_mut(index)
        {
            client.transaction = None;
            client.forget_watches();
            let text = format!("EXECABORT Transaction discarded because of: {text}");
            self.reject(index, resolved.index, &text);
        } else {
            self.reject(index, resolved.index, &text);
        }
        true
    }

    /// The error text, if the user may not; it is logged and counted.
    fn check_permission(
        &mut self,
        index: u32,
        account: &Account,
        spec: &'static CommandSpec,
        args: &[&[u8]],
    ) -> Result<(), String> {
        if let Err(denied) = account.user.check(spec, args) {
            let object = match denied {
                Denied::Command => {
                    self.stats.denied_commands += 1;
                    spec.name.as_bytes().to_vec()
                }
                Denied::Key(at) => {
                    self.stats.denied_keys += 1;
                    args[at as usize].to_vec()
                }
                Denied::Channel(at) => {
                    self.stats.denied_channels += 1;
                    args[at as usize].to_vec()
                }
            };
            self.log_refusal(index, denied.reason(), object, account.name.clone());
            return Err(format!("NOPERM {}", denied.text(&account.name, spec)));
        }
        account.user.check_sort(spec, args).map_err(str::to_owned)
    }

    /// Checks again what was queued since MULTI, when users have changed meanwhile: the error.
    pub(super) fn recheck_transaction<'a>(
        &mut self,
        index: u32,
        commands: impl Iterator<Item = &'a RawRequest>,
    ) -> Option<String> {
        let account = self.clients.get(index)?.account.clone();
        for request in commands {
            let args: SmallVec<[&[u8]; 16]> = request.iter().collect();
            let sub = args.get(1).copied();
            let Ok(spec) = holdfast_proto::command::resolve(args[0], sub) else { continue };
            if let Err(text) = self.check_permission(index, &account, spec, &args) {
                return Some(format!("EXECABORT Transaction discarded because of: {text}"));
            }
        }
        None
    }

    fn log_refusal(&mut self, index: u32, reason: &'static str, object: Vec<u8>, user: String) {
        let Some(client) = self.clients.get(index) else { return };
        let context = if client.transaction.is_some() { "multi" } else { "toplevel" };
        let max = self.setting("acllog-max-len").and_then(|text| text.parse().ok());
        let refusal = Refusal {
            id: 0,
            count: 1,
            reason,
            context,
            object,
            user,
            client: self.describe_client(index).trim_end().to_owned(),
            created_us: self.unix_us,
            updated_us: self.unix_us,
        };
        self.refusals.add(refusal, max.unwrap_or(128));
    }

    /// A password of so many bits in hexadecimal, four to a digit, rounded up. The cluster's secret
    /// makes it unguessable, the session's id and a count make it unique.
    pub(super) fn generate_password(&mut self, bits: usize) -> String {
        let digits = bits.div_ceil(4);
        let mut password = String::new();
        while password.len() < digits {
            self.passwords_generated += 1;
            let mut input = self.config.secret.to_vec();
            input.extend_from_slice(b"acl genpass");
            input.extend_from_slice(&self.lanes.worker.0.to_le_bytes());
            input.extend_from_slice(&self.passwords_generated.to_le_bytes());
            input.extend_from_slice(&self.unix_us.to_le_bytes());
            input.extend_from_slice(&self.now_us.to_le_bytes());
            password.push_str(&acl::hash(&input));
        }
        password.truncate(digits);
        password
    }
}
