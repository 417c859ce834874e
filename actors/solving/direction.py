"""Which way a metric improves, by the words of its name. Pure.

Invariant: a name that is not known, or could be meant both ways, has no direction: then a person is asked.
"""

from __future__ import annotations

import re

from envs.records import Direction

WORD = re.compile(r"[^\W_]+")
SMALLER = frozenset(
    WORD.findall("""
    loss losses error errors err mae mse rmse msle rmsle mape smape wape wmape mase mdae medae nrmse rrmse rse
    mcrmse perplexity ppl brier wer cer ter mer eer fid kid fvd lpips nll bpc bpb bpd latency time seconds runtime
    duration ms distance divergence kl kld jsd deviance entropy crossentropy logloss ece mce hamming regret cost
    misclassification fpr fnr fdr crps pinball hinge huber chamfer hausdorff aic bic inertia residual residuals
    overfit emd wasserstein rmsd
""")
)
LARGER = frozenset(
    WORD.findall("""
    accuracy acc auc auroc aucroc rocauc auprc prauc aupr ap map f1 f2 fbeta fscore fmeasure precision recall
    sensitivity specificity tpr tnr r2 kappa qwk mcc iou miou dice jaccard ndcg mrr bleu rouge rougel chrf meteor
    psnr ssim spearman pearson correlation corr silhouette reward return throughput likelihood gini elo ari nmi ami
    concordance cindex hits winrate sharpe profit explained
""")
)
PLAIN = frozenset(
    WORD.findall("""
    train training val valid validation test testing dev eval cv oof oob holdout final best mean avg average median
    macro micro weighted balanced overall total public private my the model top of on set
""")
)
"""Words that say nothing of the direction."""
FLIPPED = frozenset({"neg", "negative", "minus"})


def of_name(metric: str) -> Direction | None:
    """The direction that the name of a metric tells; None where it does not."""
    joined = re.sub(r"(?<=[a-z])(?=[A-Z][a-z])", " ", metric.replace("²", "2").replace("^2", "2"))
    words = WORD.findall(joined.lower())
    flipped = sum(word in FLIPPED for word in words) % 2
    telling = [word for word in words if word not in PLAIN and word not in FLIPPED and not word.isdigit()]
    if not flipped and "log" in telling and "likelihood" in telling:
        telling.remove("log")
    smaller, larger = (any(_known(word, names) for word in telling) for names in (SMALLER, LARGER))
    if telling == ["score"]:  # as scikit-learn's estimators have it
        larger = True
    if smaller == larger:
        return None
    return Direction.MINIMIZE if smaller != bool(flipped) else Direction.MAXIMIZE


def _known(word: str, names: frozenset[str]) -> bool:
    """Whether it is one of the names, or one with a number at its end (rouge1, ndcg10, top5)."""
    return word in names or word.rstrip("0123456789") in names
