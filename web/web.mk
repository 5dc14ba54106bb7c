# The browser's side. Included by the Makefile; every target also works without Python.

WEB_MODULES := web/node_modules/.package-lock.json

$(WEB_MODULES): web/package-lock.json | web-node
	@echo "Installing the packages of the web UI ..."
	cd web && npm ci --no-audit --no-fund
	@touch $@

.PHONY: web-node web-build web-dev web-check web-test web-bench screenshots

web-node:
	@command -v npm > /dev/null || { echo "The web UI needs Node.js 20 or later with npm." >&2; exit 1; }

web-build: $(WEB_MODULES) ## Build the web UI into web/dist
	cd web && npm run build

web-dev: $(WEB_MODULES) ## Serve the web UI with hot reload; PARLEY_API=http://127.0.0.1:8000 is its server
	cd web && npm run dev

web-check: $(WEB_MODULES)
	cd web && npm run check

web-test: web-check ## Check the web UI's types and run its unit tests
	cd web && npm test

web-bench: $(installed) web/dist/index.html ## Measure how smoothly 10,000 tokens are drawn; RATES="500 2500 0", tokens a second
	@PYTHONPATH=layers/common:. $(python) -m tests.e2e.frames $(RATES)

screenshots: $(installed) web/dist/index.html ## Make the pictures in docs/images from the running product
	@{ command -v convert && fc-list | grep -i emoji; } > /dev/null || \
		apt-get install --yes --no-install-recommends imagemagick fonts-noto-color-emoji
	@PYTHONPATH=layers/common:. $(python) -m tests.e2e.pictures
