# Deployment: `make build` makes what Lambda gets, `make deploy` sends it; docs/deploy.md goes through it.

STAGE ?= dev
STACK ?= $(if $(filter prod,$(STAGE)),parley,parley-$(STAGE))
URL ?=
export TOKEN ?=

# SAM's Python builder wants the Python that Lambda will run. The folder of pyenv's shims leads to its versions
# even where the shims do not work, as under another HOME.
python313 ?= $(shell for p in python3.13 "$(PYTHON)" "$${PYENV_ROOT:-$$HOME/.pyenv}"/versions/3.13.*/bin/python3.13 \
	"$$(dirname "$$(command -v python3.13)")"/../versions/3.13.*/bin/python3.13; do \
	"$$p" -c 'import sys; sys.exit(sys.version_info[:2] != (3, 13))' 2> /dev/null && { echo "$$p"; break; }; done)
export SAM_CLI_TELEMETRY = 0
sam = PATH="$(CURDIR)/.venv-deploy/bin:$$PATH" .venv-deploy/bin/sam
output = aws cloudformation describe-stacks --stack-name $(STACK) --output text \
	--query "Stacks[0].Outputs[?OutputKey=='$(1)'].OutputValue"
# Checked by content, not by time: the archive that goes to Lambda has times of its own, and Python would
# compile every module anew at each cold start.
compile_all = .venv-deploy/bin/python -m compileall -q -j 2 --invalidation-mode unchecked-hash
machine := $(shell uname -m)
lambda_machine := $(if $(filter aarch64 arm64,$(machine)),arm64,x86_64)
adapter_machine := $(if $(filter arm64,$(lambda_machine)),Arm64,X86)
code := $(shell find functions layers/common -name __pycache__ -prune -o -type f -print)

.PHONY: build deploy-check runtime-check deploy site keys seed logs smoke sam-local lock-deploy

build: .aws-sam/.built  ## Build the functions and the layer for Lambda

.aws-sam/.built: template.yaml $(code) .venv-deploy/.installed
	@$(sam) build
	@find .aws-sam/build -name __pycache__ -prune -exec rm -rf {} +
	@$(compile_all) .aws-sam/build/CommonLayer/python .aws-sam/build/*Function
	@touch $@

# The same build for this machine's processor, so that what is built can be run here.
build/host/.built: template.yaml $(code) .venv-deploy/.installed
	@mkdir -p build
	@sed 's/arm64/$(lambda_machine)/; s/LambdaAdapterLayerArm64/LambdaAdapterLayer$(adapter_machine)/' \
		template.yaml > build/host.yaml
	@ARCHITECTURE=$(lambda_machine) $(sam) build --template build/host.yaml --base-dir . --build-dir build/host
	@find build/host -name __pycache__ -prune -exec rm -rf {} +
	@$(compile_all) build/host/CommonLayer/python build/host/*Function
	@touch $@

deploy-check: $(installed) .venv-checkov/.installed build  ## Check the template and what is built from it
	@AWS_DEFAULT_REGION=us-east-1 $(sam) validate --lint
	@.venv-deploy/bin/cfn-lint template.yaml
	@cd .venv-checkov && LOG_LEVEL=CRITICAL bin/checkov --file ../template.yaml --framework cloudformation \
		--quiet --compact
	@$(python) -m pytest -q -p no:cacheprovider tests/deploy/test_template.py tests/deploy/translated.py \
		tests/deploy/built.py

runtime-check: $(installed) build/host/.built  ## Run what was built under Lambda's runtime emulator
	@$(python) -m pytest -q -p no:cacheprovider tests/deploy/runtime.py

# `sam deploy --parameter-overrides` replaces those of the set, so they are read and given with the release.
deploy: build  ## Deploy; STAGE=dev|prod takes a set of samconfig.toml, PARAMETERS="Valkey=none" adds to it
	@$(sam) deploy --config-env $(STAGE) --stack-name $(STACK) $(ARGS) --parameter-overrides \
		$$(.venv-deploy/bin/python local/parameters.py $(STAGE)) $(PARAMETERS) Release=$$(date -u +%Y%m%dT%H%M%S)

site: web/dist/index.html  ## Send web/dist to the site of STAGE
	@bucket=$$($(call output,SiteBucketName)) && distribution=$$($(call output,DistributionId)) && \
		aws s3 sync web/dist/assets "s3://$$bucket/assets" --cache-control "public, max-age=31536000, immutable" && \
		aws s3 sync web/dist "s3://$$bucket" --exclude "assets/*" --exclude config.json --cache-control no-cache && \
		aws cloudformation describe-stacks --stack-name $(STACK) --query "Stacks[0].Outputs" --output json | \
			python3 local/site_config.py | aws s3 cp - "s3://$$bucket/config.json" \
			--content-type application/json --cache-control no-cache && \
		aws cloudfront create-invalidation --distribution-id "$$distribution" --paths "/*" > /dev/null && \
		$(call output,SiteUrl)

# Read from the environment and sent on standard input, so that no key is seen in a list of processes.
keys:  ## Put OPENAI_API_KEY, ANTHROPIC_API_KEY, XAI_API_KEY, VALKEY_URL of your shell into the keys secret
	@arn=$$($(call output,KeysSecretArn)) && file=$$(mktemp) && trap 'rm -f "$$file"' EXIT && \
		aws secretsmanager get-secret-value --secret-id "$$arn" --query SecretString --output text | \
		python3 -c 'import json, os, sys; held = json.load(sys.stdin); \
			held.update({k: os.environ[k] for k in held if not k.startswith("KEY_SECRET") and os.environ.get(k)}); \
			print(json.dumps(held))' > "$$file" && \
		aws secretsmanager put-secret-value --secret-id "$$arn" --secret-string "file://$$file" > /dev/null && \
		echo "Saved. Running sandboxes fetch a key anew when theirs is refused; deploy again to replace them all."

seed: $(serving)  ## Load plans and models into the database of STAGE; CATALOGUE=local/catalogue.toml
	@file=$$(mktemp) && trap 'rm -f "$$file"' EXIT && PYTHONPATH=layers/common:. $(python) -m local.seed $(CATALOGUE) > "$$file" && \
		aws lambda invoke --function-name $(STACK)-migrate --payload "fileb://$$file" /dev/stdout

logs:  ## Follow the logs of STAGE
	@$(sam) logs --stack-name $(STACK) --tail

smoke: $(serving)  ## Prove that tokens arrive one by one; URL=https://… (the site, or the laptop) TOKEN=…
	@PYTHONPATH=layers/common:. $(python) -m local.smoke $(if $(URL),--url "$(URL)") $(ARGS)

# ARGS=--skip-pull-image does with the image that is there.
sam-local: $(installed) ## Run every function in Lambda's container image, where a Docker engine is present
	@docker info > /dev/null 2>&1 || { \
		echo "sam local needs a Docker engine, and none answers here. 'make runtime-check' runs the same build"; \
		echo "and events under Lambda's runtime emulator, without one."; exit 1; }
	@$(MAKE) --no-print-directory build/host/.built
	@PYTHONPATH=layers/common:. $(python) -m local.sam_local $(ARGS)

lock-deploy: $(serving)  ## Resolve the deployment's tools anew
	@for set in deploy checkov; do $(python) -m uv pip compile --quiet --universal --python-version 3.13 \
		--generate-hashes --no-strip-extras --no-emit-index-url --no-emit-find-links --custom-compile-command "make lock-deploy" \
		$(LOCK) requirements-$$set.in --output-file requirements-$$set.txt || exit 1; done

.venv-deploy/.installed .venv-checkov/.installed: .venv-%/.installed: requirements-%.txt | $(serving)
	@test -n "$(python313)" || { { \
		echo "Building for Lambda needs Python 3.13, the one that Lambda runs, and none was found on the path or"; \
		echo "in pyenv. Install it, or name it: make python313=/path/to/python3.13 ..."; } >&2; exit 1; }
	@echo "Installing the packages of $< into .venv-$* ..."
	@$(python313) -m venv --clear .venv-$*
	@$(python) -m uv pip sync --quiet --python .venv-$*/bin/python --require-hashes $< || \
		.venv-$*/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes -r $<
	@touch $@
