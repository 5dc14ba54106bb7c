/** What went wrong, and what can be done about it. */

import type { ReactNode } from "react";
import { mayRetry, type Problem, tooLong } from "../chat/state";
import { signInAgain } from "../config";
import { Icon } from "./Icon";
import { useCountdown, waitOf } from "./useCountdown";

interface BannerProps {
  problem: Problem;
  onRetry: () => void;
  onDismiss: () => void;
}

const TITLES: Record<Problem["about"], string> = {
  load: "The chat could not be loaded",
  send: "The question was not sent",
  reply: "The reply did not finish",
  connection: "The connection was lost",
  stop: "The reply could not be stopped",
};

function titleOf({ about, failure }: Problem): string {
  if (tooLong(failure)) return "The question is too long";
  return failure.code === "chat_moved" ? "Not sent: there is something new here" : TITLES[about];
}

export function Banner({ problem, onRetry, onDismiss }: BannerProps): ReactNode {
  const { about, failure } = problem;
  const wait = useCountdown(failure.retryAfterMs ?? 0, failure);
  return (
    <section className="banner" aria-label="Problem">
      <Icon name="warning" />
      {/* Only this is read out when it appears; the seconds that pass beside it are not. */}
      <div className="banner-text" role="alert">
        <strong>{titleOf(problem)}</strong>
        <span>
          {failure.message}
          {about === "connection" ? " The reply goes on without this page; nothing of it is lost." : ""}
        </span>
      </div>
      <div className="banner-actions">
        {mayRetry(problem) ? (
          <button type="button" className="button" onClick={() => wait > 0 || onRetry()} aria-disabled={wait > 0}>
            {wait > 0 ? `Retry in ${waitOf(wait)}` : "Retry"}
          </button>
        ) : null}
        {about === "connection" || about === "load" ? (
          <button type="button" className="button" onClick={() => location.reload()}>
            Reload
          </button>
        ) : null}
      </div>
      <button type="button" className="quiet banner-close" onClick={onDismiss} aria-label="Dismiss">
        <Icon name="close" />
      </button>
    </section>
  );
}

/** Where a token has run out: nothing else can be done before the next one. */
export function SignedOut(): ReactNode {
  return (
    <section className="banner" aria-label="Problem">
      <Icon name="warning" />
      <div className="banner-text" role="alert">
        <strong>You are signed out</strong>
        <span>Your sign-in has run out. What you have written here is kept.</span>
      </div>
      <div className="banner-actions">
        <button type="button" className="button" onClick={signInAgain}>
          Sign in again
        </button>
      </div>
    </section>
  );
}
