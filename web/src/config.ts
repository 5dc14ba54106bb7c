/** Where this deployment's API is and who its users are: `/config.json`, written by whoever deploys. */

import { type Auth, type Endpoints, endpointsBelow } from "./chat/client";

export interface Config {
  endpoints: Endpoints;
  auth: { kind: "trusted"; users: string[] } | { kind: "bearer"; signInUrl: string | null };
}

/** The file: a base for all paths, single endpoints where they differ, and the way to authenticate. */
interface File {
  base?: string;
  endpoints?: Partial<Endpoints>;
  auth?: { kind?: string; users?: string[]; signInUrl?: string };
}

export async function loadConfig(): Promise<Config> {
  const response = await fetch("/config.json", { cache: "no-cache" });
  if (!response.ok) throw new Error(`config.json answered ${response.status}.`);
  return readConfig((await response.json()) as File);
}

export function readConfig({ base = "/api", endpoints = {}, auth = {} }: File): Config {
  return {
    endpoints: { ...endpointsBelow(base), ...endpoints },
    auth:
      auth.kind === "bearer"
        ? { kind: "bearer", signInUrl: auth.signInUrl ?? null }
        : { kind: "trusted", users: auth.users?.length ? auth.users : ["demo-free"] },
  };
}

/** Where the page that signs people in (`sign-in.html`, or a deployment's own) leaves their token. */
const TOKEN = "parley.token";

/** Where whoever signs in comes back to. */
const RETURN = "parley.return";

/** The page to sign in at first; null where nobody has to, or nobody said where. */
export function signInFirst({ auth }: Config): string | null {
  if (auth.kind !== "bearer" || sessionStorage.getItem(TOKEN) !== null) return null;
  sessionStorage.setItem(RETURN, location.pathname);
  return auth.signInUrl;
}

/** Forgets a token that was refused, and begins anew. */
export function signInAgain(): void {
  sessionStorage.removeItem(TOKEN);
  location.reload();
}

export function authFor(config: Config, userId: string): Auth {
  if (config.auth.kind === "trusted") return { kind: "trusted", userId };
  return { kind: "bearer", getToken: () => sessionStorage.getItem(TOKEN) };
}
