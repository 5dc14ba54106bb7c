/** What went wrong, and what can be done about it. */

import type { ReactNode } from "react";
import type { Problem } from "../chat/state";
import { signInAgain } from "../config";
import { Icon } from "./Icon";

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

export function Banner({ problem, onRetry, onDismiss }: BannerProps): ReactNode {
  const { about, failure } = problem;
  const wait = failure.retryAfterMs === undefined ? 0 : Math.ceil(failure.retryAfterMs / 1000);
  return (
    <div className="banner" role="alert">
      <Icon name="warning" />
      <div className="banner-text">
        <strong>{TITLES[about]}</strong>
        <span>
          {failure.message}
          {about === "connection" ? " The reply goes on without this page; nothing of it is lost." : ""}
          {wait > 0 ? ` It should work again in ${wait} s.` : ""}
        </span>
      </div>
      <div className="banner-actions">
        {failure.code === "unauthorized" ? (
          <button type="button" className="button" onClick={signInAgain}>
            Sign in again
          </button>
        ) : null}
        {failure.retryable || about === "reply" ? (
          <button type="button" className="button" onClick={onRetry}>
            Retry
          </button>
        ) : null}
        {about === "connection" || about === "load" ? (
          <button type="button" className="button" onClick={() => location.reload()}>
            Reload
          </button>
        ) : null}
        <button type="button" className="quiet" onClick={onDismiss} aria-label="Dismiss">
          <Icon name="close" />
        </button>
      </div>
    </div>
  );
}
