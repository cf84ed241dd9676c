# The usual errands. Builds take what they know of the database from .sqlx, also where DATABASE_URL is set for `sluice` itself.
export SQLX_OFFLINE = true

.DEFAULT_GOAL := help
.PHONY: help run test peers faults bench fuzz check fmt clippy doc deny sqlx sqlx-check help-check postgres

help: ## these lines
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 20

run: ## all in one, with a Postgres of its own (installs the server's binaries if there are none)
	@test -n "$$DATABASE_URL" || scripts/install-postgres.sh
	cargo run --release -- dev $(ARGS)

test: ## all tests, on a real, throwaway Postgres
	scripts/with-postgres.sh cargo test --all-features $(ARGS)

peers: ## installs the servers that the tests of sinks deliver to, into .peers/
	scripts/peers.sh

faults: ## a storm of faults under load for MINUTES (10), reported as a table; SLUICE_TEST_SEED repeats one
	SLUICE_TEST_MINUTES=$(or $(MINUTES),10) scripts/with-postgres.sh cargo test --all-features --test faults storm::whatever -- --nocapture

bench: postgres ## the pure parts by criterion, then the whole by `sluice bench`
	cargo bench
	cargo run --release -- bench $(ARGS)

fuzz: ## what strangers and operators write, at random: the verifier and the config, FUZZ_SECONDS (30) each
	scripts/fuzz.sh $(ARGS)

check: fmt clippy doc deny sqlx-check help-check test ## what CI runs

fmt: ## refuses code that rustfmt would change
	cargo fmt --check

clippy: ## refuses every warning
	cargo clippy --all-targets --all-features -- -D warnings

# The documented code map may point at private modules, since private items are documented here too.
doc: ## refuses broken links in the documentation
	RUSTDOCFLAGS="-D warnings -A rustdoc::private-intra-doc-links" cargo doc --no-deps --document-private-items --all-features

deny: ## dependencies: banned crates, licences, sources
	@cargo deny --version >/dev/null 2>&1 || { echo "cargo-deny is missing: cargo install --locked cargo-deny" >&2; exit 1; }
	cargo deny --log-level error --all-features check --hide-inclusion-graph bans licenses sources

sqlx: ## writes .sqlx anew, after a query or a migration changed
	scripts/sqlx-prepare.sh

sqlx-check: ## refuses a .sqlx that is out of date
	scripts/sqlx-prepare.sh --check

help-check: ## asks every command for its --help
	cargo build
	scripts/check-help.sh "$$(cargo metadata --format-version 1 --no-deps | sed 's/.*"target_directory":"\([^"]*\)".*/\1/')/debug/sluice"

postgres:
	@scripts/install-postgres.sh
