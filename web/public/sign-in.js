/**
 * Signs in at the hosted login that config.json names (authorization code with PKCE, RFC 7636), leaves the
 * access token where the page looks for it, and goes there.
 */

const TOKEN = "parley.token";
const PENDING = "parley.sign-in";
const RETURN = "parley.return";

const base64url = (bytes) =>
  btoa(String.fromCharCode(...new Uint8Array(bytes)))
    .replaceAll("+", "-")
    .replaceAll("/", "_")
    .replaceAll("=", "");
const random = () => base64url(crypto.getRandomValues(new Uint8Array(32)));
const here = `${location.origin}/sign-in.html`;

async function leave({ loginUrl, clientId }) {
  const pending = { state: random(), verifier: random() };
  sessionStorage.setItem(PENDING, JSON.stringify(pending));
  const challenge = await crypto.subtle.digest("SHA-256", new TextEncoder().encode(pending.verifier));
  const query = new URLSearchParams({
    response_type: "code",
    client_id: clientId,
    redirect_uri: here,
    scope: "openid email",
    state: pending.state,
    code_challenge: base64url(challenge),
    code_challenge_method: "S256",
  });
  location.replace(`${loginUrl}/oauth2/authorize?${query}`);
}

async function arrive({ loginUrl, clientId }, answer) {
  const pending = JSON.parse(sessionStorage.getItem(PENDING) ?? "{}");
  sessionStorage.removeItem(PENDING);
  // An answer to no question of this tab's was made by somebody else.
  if (!pending.state || answer.get("state") !== pending.state) throw new Error("Please sign in again.");
  if (!answer.get("code")) throw new Error("The sign-in was not completed.");
  const response = await fetch(`${loginUrl}/oauth2/token`, {
    method: "POST",
    headers: { "content-type": "application/x-www-form-urlencoded" },
    body: new URLSearchParams({
      grant_type: "authorization_code",
      client_id: clientId,
      redirect_uri: here,
      code: answer.get("code"),
      code_verifier: pending.verifier,
    }),
  });
  if (!response.ok) throw new Error("Please sign in again.");
  sessionStorage.setItem(TOKEN, (await response.json()).access_token);
  const back = sessionStorage.getItem(RETURN) ?? "";
  sessionStorage.removeItem(RETURN);
  location.replace(back.startsWith("/chat") ? back : "/");
}

try {
  const { auth = {} } = await (await fetch("/config.json", { cache: "no-cache" })).json();
  if (!auth.loginUrl) throw new Error("This Parley has no hosted login.");
  const answer = new URLSearchParams(location.search);
  await (answer.has("state") || answer.has("error") ? arrive(auth, answer) : leave(auth));
} catch (error) {
  document.getElementById("state").textContent = error.message;
}
