# The benchmarks. Included by the Makefile; docs/performance.md says what they measure and how to read them.

.PHONY: bench bench-docs bench-setup lock-bench clean-bench

bench: $(installed)  ## Measure Parley beside its peers and floors; ARGS="--quick --only relay"
	@PYTHONPATH=layers/common:. $(python) -m bench $(ARGS)

bench-setup: $(installed)  ## Install the peers that `make bench` measures; it does so itself
	@PYTHONPATH=layers/common:. $(python) -m bench.install

bench-docs: $(installed)  ## Put the tables of the newest whole run into docs/performance.md
	@PYTHONPATH=layers/common:. $(python) -m bench.docs

lock-bench: $(installed)  ## Resolve the peers anew
	@for peer in fastapi litellm; do $(python) -m uv pip compile --quiet --universal --python-version 3.11 \
		--generate-hashes --no-emit-index-url --no-emit-find-links --custom-compile-command "make lock-bench" \
		$(LOCK) bench/peers/$$peer/requirements.in --output-file bench/peers/$$peer/requirements.txt || exit 1; done
	@cd bench/peers/nest && npm install --package-lock-only --no-audit --no-fund

clean-bench:
	@rm -rf .venv-bench-* bench/peers/nest/node_modules bench/peers/nest/dist
