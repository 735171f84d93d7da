"""What keys are called in other libraries: sb3-contrib, CleanRL, RLlib, SheepRL, rl-zoo."""

# Their words, and the key of seqrl; docs/coming_from.md has the same table.
KEYS = {
    "parallel": ["n_envs", "num_envs", "n_env", "num_env", "n_workers", "num_workers", "num_env_runners"],
    "rollout_length": ["n_steps", "num_steps", "rollout_steps_per_env", "rollout_fragment_length", "unroll_length"],
    "total_steps": ["total_timesteps", "n_timesteps", "timesteps", "total_env_steps", "timesteps_total", "max_steps"],
    "algorithm.minibatch_steps": ["batch_size", "minibatch_size", "sgd_minibatch_size", "mini_batch_size"],
    "algorithm.minibatches": ["num_minibatches", "n_minibatches", "n_minibatch", "num_batches", "num_mini_batches"],
    "algorithm.epochs": ["n_epochs", "update_epochs", "num_epochs", "num_sgd_iter", "ppo_epochs", "mini_epochs"],
    "algorithm.entropy_coefficient": ["ent_coef", "entropy_coeff", "entropy_coef", "entropy_cost"],
    "algorithm.value_coefficient": ["vf_coef", "vf_loss_coeff", "value_coef", "critic_coef", "value_loss_coef"],
    "algorithm.learning_rate": ["lr", "alpha", "step_size", "adam_lr"],
    "algorithm.clip_range": ["clip_coef", "clip_param", "clip_eps", "clip_epsilon", "eps_clip", "e_clip"],
    "algorithm.gae_lambda": ["lambda", "lambda_", "lam", "gae_tau"],
    "algorithm.gamma": ["discount", "discount_factor"],
    "algorithm.normalize_advantage": ["norm_adv", "advantage_normalization", "standardize_advantages"],
    "algorithm.anneal": ["anneal_lr", "lr_schedule", "learning_rate_schedule"],
    "algorithm.target_kl": ["kl_target", "kl_threshold", "target_kl_divergence"],
    "sequence_learning.grad_clip_norm": ["max_grad_norm", "grad_clip", "clip_grad_norm", "grad_norm", "gradient_clip"],
    "sequence_learning.bptt_length": [
        "seq_len", "seq_length", "sequence_length", "max_seq_len", "recurrence", "bptt", "bptt_horizon",
        "per_rank_sequence_length", "tbptt",
    ],
    "network.lstm_hidden_size": ["lstm_size", "lstm_cell_size", "rnn_hidden_size", "rnn_size", "recurrent_size"],
    "network.layers": ["n_lstm_layers", "num_lstm_layers", "n_layers", "num_layers", "rnn_layers"],
    "network.hidden_size": ["net_arch", "fcnet_hiddens", "mlp_units", "dense_units"],
    "network.separate_critic": ["enable_critic_lstm", "shared_lstm", "vf_share_layers", "separate_value_network"],
    "network.normalize_observations": ["norm_obs", "normalize", "normalize_input", "observation_filter"],
    "env.id": ["env_id", "env_name", "gym_id", "environment", "task"],
    "evaluation.interval": ["eval_freq", "eval_interval", "evaluation_interval"],
    "evaluation.episodes": ["n_eval_episodes", "eval_episodes", "evaluation_duration"],
    "checkpoint_interval": ["save_freq", "checkpoint_freq", "save_every"],
    "device.name": ["cuda", "use_gpu", "num_gpus", "gpu"],
    "device.threads": ["num_threads", "n_threads", "torch_threads"],
    "logger": ["track", "use_wandb", "wandb", "tensorboard_log"],
    "name": ["exp_name", "run_name", "experiment_name"],
}  # fmt: skip
# What to know beside the name.
REMARKS = {
    "rollout_length": "0 plays whole episodes",
    "algorithm.minibatch_steps": "environment steps of all environments in a gradient step, not sequences",
    "sequence_learning.bptt_length": "0 reaches back to the start of the episode",
    "network.separate_critic": "true gives the value an encoder and a memory of its own",
    "network.hidden_size": "one number",
    "algorithm.anneal": "a list of keys that fall to 0, such as [learning_rate]",
    "device.name": "choose it with device=cuda",
    "logger": "choose one with logger=, such as tensorboard, the default, or wandb",
    "evaluation.interval": "in iterations",
    "checkpoint_interval": "in iterations",
    "algorithm.entropy_coefficient": "of a log barrier, unless algorithm.exploration=entropy; falls to 0",
}
_OF = {word: key for key, words in KEYS.items() for word in words}


def ours(word: str) -> str | None:
    """The key that another library's word means: `n_envs`, also with dashes or behind a section; None for others."""
    return _OF.get(word.lower().rpartition(".")[2].replace("-", "_"))


def meant(word: str) -> str:
    """` Here it is …` for another library's word, with what is different; otherwise nothing."""
    if (key := ours(word)) is None:
        return ""
    remark = f" ({REMARKS[key]})" if key in REMARKS else ""
    return f" Here it is {key}{remark}."
