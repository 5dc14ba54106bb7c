# The browser's side. Included by the Makefile; every target also works without Python.

WEB_MODULES := web/node_modules/.package-lock.json

$(WEB_MODULES): web/package-lock.json
	cd web && npm ci --no-audit --no-fund
	@touch $@

.PHONY: web-build web-dev web-check web-test

web-build: $(WEB_MODULES) ## build the web UI into web/dist
	cd web && npm run build

web-dev: $(WEB_MODULES) ## the web UI with hot reload; /api goes to PARLEY_API (http://127.0.0.1:8000)
	cd web && npm run dev

web-check: $(WEB_MODULES)
	cd web && npm run check

web-test: web-check ## types and unit tests of the web UI
	cd web && npm test
